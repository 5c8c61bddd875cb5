"""Which conversation a call belongs to, as a slot that replicas are placed by (`interlock.routing.placement`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.routing.placement import slot
from interlock.types.identity import Recording
from interlock.wire.opening import opening, session

if TYPE_CHECKING:
    from interlock.gateway.call import Call

SESSION = b"x-interlock-session"
SESSION_BYTES_MAX = 256
"""Bytes of a caller's own word for its conversation that tell it from others."""


def affinity_of(call: Call, text_bytes_max: int) -> int:
    """The slot of a call's conversation, 0 when it has none.

    A conversation is what the caller calls one (header `x-interlock-session`, field `prompt_cache_key`); else what its
    prompt begins with. Another tenant's is another one, for it has another cache. Where contents of the call are not
    recorded, so is another principal's: then nobody else can find out by calls of their own what a recorded slot is of.
    """
    identity, parsed = call.identity, call.parsed
    assert identity is not None and parsed is not None  # noqa: S101 - stage order
    owner = identity.tenant_id.encode()
    if call.recording >= Recording.metadata:
        owner += b"\0" + identity.caller.principal.id.encode()
    named = call.request.headers.get(SESSION) or session(parsed)
    if named:
        return slot(call.state.placement_key, (owner, b"session", named[:SESSION_BYTES_MAX]))
    texts = opening(parsed, text_bytes_max)
    return slot(call.state.placement_key, (owner, b"text", *texts)) if texts else 0
