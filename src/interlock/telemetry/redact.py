"""What a log line must not hold: credentials wherever they stand, and payloads by the name of their field."""

from __future__ import annotations

import re

STRUCK = "[struck]"
VALUE_CHARS_MAX = 2000
"""Longest text of one field; the rest is cut."""

_CREDENTIALS = (
    re.compile(r"\bil_[a-z0-9]{1,16}_[A-Za-z0-9]{8,}"),  # our own keys
    re.compile(r"\b(?:sk|pk|rk|hf|gh[opsur]|github_pat|glpat|xox[abprs])[-_][A-Za-z0-9_\-]{8,}"),
    re.compile(r"\bAKIA[A-Z0-9]{12,}"),
    re.compile(r"\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*)?"),  # JWT
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.S),
)
_AFTER_WORD = re.compile(
    r"(?i)(\b(?:bearer|basic)\s+|\b(?:password|passwd|pwd|secret|token|api[-_]?key|access[-_]?key|authorization|cookie)"
    r"[\"']?\s*[=:]\s*[\"']?(?:bearer\s+|basic\s+)?)([^\s\"',;&\[][^\s\"',;&]*)"
)
_IN_URL = re.compile(r"(\b[a-z][a-z0-9+.\-]*://[^\s/:@]*:)[^\s/@]+@", re.I)
_SECRET_FIELD = re.compile(
    r"(?i)(^|_)(password|passwd|secret|token|authorization|cookie|api_?key|admin_key|private_key|pepper|credential)$"
)
_PAYLOAD_FIELDS = frozenset(
    {"body", "messages", "prompt", "content", "completion", "input", "output", "text", "payload", "chunk", "delta"}
)


def redact(text: str) -> str:
    """`text` with everything that looks like a credential struck out, cut to `VALUE_CHARS_MAX`."""
    text = text[: 4 * VALUE_CHARS_MAX]
    for pattern in _CREDENTIALS:
        text = pattern.sub(STRUCK, text)
    text = _IN_URL.sub(rf"\1{STRUCK}@", text)
    text = _AFTER_WORD.sub(rf"\1{STRUCK}", text)
    return text if len(text) <= VALUE_CHARS_MAX else text[:VALUE_CHARS_MAX] + "..."


def redact_field(name: str, value: object) -> object:
    """The value a field may be shown with. Numbers, booleans and None pass; other values are shown as redacted text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_FIELD.search(name):
        return STRUCK
    if name in _PAYLOAD_FIELDS:
        return "[payload left out]"
    return redact(value if isinstance(value, str) else str(value))
