"""record: what is about to happen is written down before it happens (P1), and so is every refusal."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from interlock.errors import BadRequest
from interlock.types.identity import Recording
from interlock.types.record import Held, Intent, Refusal

if TYPE_CHECKING:
    from interlock.errors import InterlockError
    from interlock.gateway.call import Call
    from interlock.ledger.log import RecordLog

METADATA = int(Recording.metadata)
HEADER_KEPT_MAX = 256
"""Characters kept of a client's own request id."""


def record_intent(call: Call, log: RecordLog) -> None:
    """Append the Intent and keep its sequence number. Durability is awaited where bytes would leave, not here."""
    identity, features, parsed = call.identity, call.features, call.parsed
    assert identity is not None and features is not None and parsed is not None  # noqa: S101 - stage order
    assert call.target is not None and call.route is not None and call.authorization is not None  # noqa: S101
    caller = identity.caller
    principal = caller.principal
    body = call.request.body
    call.intent_seq = log.append(
        Intent(
            call.number,
            call.wall_ns,
            call.started_ns,
            identity.tenant_id,
            identity.team_id,
            principal.id,
            principal.kind,
            caller.delegator.id if caller.delegator is not None else "",
            caller.delegation,
            caller.auth_method,
            caller.credential_id,
            call.face.name,
            features,
            call.target,
            call.state.version,
            call.state.root,
            call.authorization.permits,
            call.route,
            parsed.parameters,
            b"",  # the body itself is here, or nothing that it could be guessed by
            body if call.recording < METADATA else b"",
            call.reserved_tokens,
            call.trace_id,
            client_request_id(call),
            call.request.peer,
            call.request_class,
            identity.parties,
            charges=call.hold.charges if call.hold is not None else (),
            recording=call.recording,
            receipt=call.receipt.body if call.receipt is not None else "",
            work=call.work,
            trials=call.trials,
            shadow_of=call.shadow_of,
            judge_of=call.judge_of,
            judge_against=call.judge_against,
            challenger_of=call.challenger_of,
        )
    )


def record_held(call: Call, log: RecordLog) -> int:
    """Append that a call waits of which nothing is decided yet; returns the record's sequence number."""
    identity, features = call.identity, call.features
    assert identity is not None and features is not None  # noqa: S101 - stage order
    caller = identity.caller
    delegator_id = caller.delegator.id if caller.delegator is not None else ""
    return log.append(
        Held(call.number, call.wall_ns, identity.tenant_id, caller.principal.id, delegator_id, features.asked)
    )


def record_refusal(call: Call, error: InterlockError, log: RecordLog) -> int:
    """Append a Refusal of an authenticated call; returns its sequence number."""
    identity, parsed, features = call.identity, call.parsed, call.features
    assert identity is not None  # noqa: S101 - only authenticated calls are recorded
    caller = identity.caller
    reasons = call.authorization.denials if call.authorization is not None else ()
    permits = call.authorization.permits if call.authorization is not None else ()
    if call.route is not None:
        reasons = (*reasons, *call.route.rejected)
    data_class = call.data_class if call.data_class is not None else caller.data_class
    recording, quoting = call.recording, call.recording < METADATA
    if recording < 0:
        # Not read as far as that: what its alias and body ask for is not known, so that nothing of it is kept.
        recording, quoting = identity.recording, False
    return log.append(
        Refusal(
            call.number,
            call.wall_ns,
            identity.tenant_id,
            identity.team_id,
            caller.principal.id,
            caller.delegator.id if caller.delegator is not None else "",
            caller.auth_method,
            caller.credential_id,
            call.face.name,
            call.operation,
            features.asked if features is not None else (parsed.model if parsed is not None else ""),
            int(data_class),
            call.state.version,
            error.status,
            error.code,
            error.message if quoting or not isinstance(error, BadRequest) else "",
            reasons,
            sha256(call.request.body).digest() if quoting else b"",
            call.trace_id,
            client_request_id(call),
            call.request.peer,
            identity.parties,
            call.state.root,
            features,
            call.target,
            permits,
            call.route,
            call.seed,
            recording=recording,
            receipt=call.receipt.body if call.receipt is not None else "",
            work=call.work,
            trials=call.trials,
        )
    )


def client_request_id(call: Call) -> str:
    """The client's own request id (`x-request-id`), printable and bounded, or ""."""
    value = call.request.headers.get(b"x-request-id")
    if value is None:
        return ""
    text = value[:HEADER_KEPT_MAX].decode("latin-1")
    return text if text.isprintable() else ""
