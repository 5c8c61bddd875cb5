"""One tree of errors. Each knows its code, HTTP status, whether a client may retry, and how loudly to log it.

A message is one sentence: what was wrong, where, and what to do. It never holds a secret or a stack trace.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping


class InterlockError(Exception):
    """Base of everything Interlock raises on purpose.

    `param` names the request field or configuration path at fault; `headers` are added to an HTTP answer.
    """

    code = "internal_error"
    status = 500
    kind = "api_error"
    """The `type` field of OpenAI's error object."""
    retryable = False
    level = logging.ERROR
    request_id = ""
    """Of the call that it ends; set where the call is known, for dialects that tell it in the body."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = dict(headers or {})
        if code is not None:
            self.code = code


class BadRequest(InterlockError):
    """The request cannot be understood as it is."""

    code, status, kind, level = "invalid_request", 400, "invalid_request_error", logging.INFO


class BodyTooLarge(BadRequest):
    """The body is larger than `body_bytes_max`."""

    code, status = "body_too_large", 413


class HeadersTooLarge(BadRequest):
    """The request head is larger than `head_bytes_max`."""

    code, status = "headers_too_large", 431


class RequestTimeout(BadRequest):
    """The request did not arrive within `head_timeout_ms` or `body_timeout_ms`."""

    code, status = "request_timeout", 408


class MethodNotAllowed(BadRequest):
    """The path exists, the method does not."""

    code, status = "method_not_allowed", 405


class NotFound(InterlockError):
    """No such thing, or none that this caller may know of."""

    code, status, kind, level = "not_found", 404, "invalid_request_error", logging.INFO


class ModelNotFound(NotFound):
    """No model of that name that the caller may list."""

    code = "model_not_found"


class NotImplementedYet(InterlockError):
    """A known endpoint that this version does not serve."""

    code, status, kind, level = "not_implemented", 501, "invalid_request_error", logging.INFO


class Unauthenticated(InterlockError):
    """Missing, malformed, unknown, expired or revoked credentials."""

    code, status, kind, level = "invalid_api_key", 401, "invalid_request_error", logging.INFO


class Denied(InterlockError):
    """Policy does not permit this."""

    code, status, kind, level = "policy_denied", 403, "permission_error", logging.INFO


class LimitExceeded(InterlockError):
    """A rate, token or concurrency limit is reached."""

    code, status, kind, retryable, level = "rate_limit_exceeded", 429, "rate_limit_error", True, logging.INFO


class Conflict(InterlockError):
    """The thing has changed meanwhile, or exists already."""

    code, status, kind, level = "conflict", 409, "invalid_request_error", logging.INFO


class Unavailable(InterlockError):
    """Interlock cannot serve this now: draining, backlog, stale snapshot, full disk."""

    code, status, retryable, level = "unavailable", 503, True, logging.WARNING


class SnapshotError(Unavailable):
    """A snapshot is damaged, mixed or of another format; the one held before stays in use."""

    code, level = "snapshot_rejected", logging.ERROR


class UpstreamError(InterlockError):
    """A model source failed."""

    code, status, retryable, level = "upstream_error", 502, True, logging.WARNING


class UpstreamTimeout(UpstreamError):
    """A model source did not answer in time. `code` says which time-out it was."""

    code, status = "upstream_timeout", 504


class NoCandidate(UpstreamError):
    """Every allowed source is down, saturated or unable."""

    code, status = "no_candidate", 503


class EngineStarting(NoCandidate):
    """The only sources that may take the call are engines that are starting. `sources`: their ids."""

    code = "engine_starting"
    sources: tuple[str, ...] = ()


class LogError(Unavailable):
    """The record log cannot take more: nothing is answered that was not recorded (P1)."""

    code, level = "record_log_unavailable", logging.CRITICAL


class LogCorrupt(InterlockError):
    """A record log on disk is damaged: records that were durable cannot be read. `param` is segment:offset."""

    code, level = "record_log_corrupt", logging.CRITICAL


class ConfigError(InterlockError):
    """A setting, configuration file or stored value is wrong. `param` holds file, line or path."""

    code, status, kind = "invalid_configuration", 400, "invalid_request_error"


class DeliveryError(InterlockError):
    """A channel of alerts could not be told; the message says why, and nothing of what the other side said."""

    code, status, retryable, level = "not_delivered", 502, True, logging.WARNING


class StoreError(InterlockError):
    """The database refused or is away."""

    code, status, retryable = "store_error", 503, True


class MigrationError(StoreError):
    """The database schema cannot be brought to this version; the start stops here."""

    code, retryable = "migration_failed", False
