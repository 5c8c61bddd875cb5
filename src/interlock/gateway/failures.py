"""What the failures of attempts mean for the call and for its source, by their codes."""

from __future__ import annotations

FINAL_CODES = frozenset(("upstream_refused", "invalid_header", "content_filter"))
"""Failures that another source would repeat: the caller is told at once."""
STALE_CODE = "upstream_stale"
"""The source had closed a kept connection: it has not seen the request, which goes to it once more, on a new one."""
HARMLESS_CODES = FINAL_CODES | {
    "upstream_rate_limited",
    "context_length_exceeded",
    "upstream_pool_full",
    "unknown_field",
    "untranslatable",
    "uncountable",
    "upstream_model_missing",
    STALE_CODE,
}
"""Failures that say nothing about the source's health: they do not count for its circuit breaker."""
