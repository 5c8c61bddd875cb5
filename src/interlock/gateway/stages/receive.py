"""receive: the body becomes a checked request of its dialect."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from interlock.errors import BadRequest
from interlock.gateway.faces.openai import OPENAI
from interlock.wire import openai

if TYPE_CHECKING:
    from interlock.gateway.call import Call

MODEL_NAME_MAX = 512
"""Longest model name taken, characters."""
UNTYPED = frozenset(("ollama",))
"""Dialects whose servers do not look at the content type, and whose clients may not say it (`curl -d`)."""
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def receive(call: Call, limits: openai.Limits) -> None:
    """Fill `call.parsed` and `call.trace_id`. Raises BadRequest naming the field at fault."""
    request = call.request
    kind = request.headers.get(b"content-type", b"application/json")
    typed = kind.startswith(b"application/json") or kind.lower().startswith(b"application/json")
    if not typed and call.face.name not in UNTYPED:
        raise BadRequest("Send the body as content-type application/json.", code="unsupported_content_type")
    if call.face is OPENAI:
        parsed = openai.parse(call.operation, request.body, limits)
    else:
        parsed = call.face.parse(call, limits)
    if not parsed.model or len(parsed.model) > MODEL_NAME_MAX:
        raise BadRequest(f"Field 'model' must be 1 to {MODEL_NAME_MAX} characters long.", param="model")
    call.parsed = parsed
    traceparent = request.headers.get(b"traceparent")
    if traceparent is not None:
        # W3C Trace Context: version-traceid-parentid-flags
        match = _TRACEPARENT.fullmatch(traceparent)
        if match is not None:
            call.trace_id = match[1].decode("ascii")
