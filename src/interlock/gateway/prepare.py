"""What a source is sent for a call: the checked fields, fitted to the source, and nothing that was not checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlock.errors import BadRequest
from interlock.gateway.speech import NATIVE
from interlock.sources.fields import uninterpreted
from interlock.types.source import SourceKind
from interlock.wire.openai import build_body
from interlock.wire.speech import Ask

if TYPE_CHECKING:
    from interlock.gateway.call import Call
    from interlock.types.source import Offer, Source
    from interlock.wire.openai import Fields

PATHS = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "rerank": "/rerank",
    "score": "/score",
}
GENERATING = frozenset(("chat", "completions"))
"""Operations that make text, which takes a bound and may be streamed."""


def body_for(call: Call, offer: Offer, source: Source) -> bytes:
    """The JSON body for one offer.

    - the model's name as the source serves it;
    - a bound on the answer where the caller gave none (its alias's cap, or the default, unless the model's context
      bounds it more tightly anyway);
    - usage asked for on streams, so that tokens need not be guessed;
    - vLLM's `priority` by the call's class, where the engine schedules by it and the caller sent none;
    - vLLM's `cache_salt` per tenant, so that the timing of its prefix cache tells nothing across tenants;
    - fields that nobody interprets by the source's rule: pass, drop, or refuse (BadRequest `unknown_field`).
    """
    parsed = call.parsed
    assert parsed is not None and call.identity is not None  # noqa: S101 - stage order
    fields = parsed.fields
    drop = _dropped(call.operation, fields, source) if source.extra_fields != "pass" else ()
    add: dict[str, Any] = {}
    if parsed.operation in GENERATING:
        if not parsed.max_tokens and (bound := _bound(call, offer)):
            chat_at_cloud = source.kind is SourceKind.openai and call.operation == "chat"
            add["max_completion_tokens" if chat_at_cloud else "max_tokens"] = bound
        if parsed.stream and not parsed.wants_usage:
            add["stream_options"] = {"include_usage": True}
    if source.kind is SourceKind.vllm and source.prefix_cache_salt and parsed.operation in GENERATING:
        add["cache_salt"] = call.state.cache_salt(call.identity.tenant_id)
    if source.priority_scheduling and call.workload and parsed.operation != "embeddings" and "priority" not in fields:
        add["priority"] = int(call.workload)  # vLLM: the lower, the earlier; 0 without the field
    return build_body(fields, model=offer.model.name, drop=drop, add=add)


def _dropped(operation: str, fields: Fields, source: Source) -> tuple[str, ...]:
    """The fields that nobody interprets. Raises BadRequest `unknown_field` when the source's rule is to refuse them."""
    drop = uninterpreted(source.kind, operation, fields)
    if drop and source.extra_fields == "refuse":
        raise BadRequest(
            f"The source {source.name!r} does not take field {drop[0]!r}.", code="unknown_field", param=drop[0]
        )
    return drop


def ask_for(call: Call, offer: Offer, source: Source) -> Ask:
    """What a source is to be asked that does not speak the pivot, or that speaks the caller's dialect.

    What has no word there is left out by its speech; by the source's rule it may be refused instead.
    """
    parsed = call.parsed
    assert parsed is not None and call.identity is not None  # noqa: S101 - stage order
    native = parsed.native is not None and (parsed.native.dialect, source.kind) in NATIVE
    if source.extra_fields == "refuse" and not native:
        _dropped(parsed.operation, parsed.fields, source)
    bound = _bound(call, offer) if parsed.operation in GENERATING and not parsed.max_tokens else 0
    salted = source.kind is SourceKind.vllm and source.prefix_cache_salt
    salt = call.state.cache_salt(call.identity.tenant_id) if salted else ""
    return Ask(parsed, offer, source, bound, call.completion_tokens_max, salt)


def trace_headers(call: Call) -> list[tuple[bytes, bytes]]:
    """Headers that go up with the call: the trace context as it came, and our request id."""
    headers = [(b"x-request-id", call.id.encode())]
    incoming = call.request.headers
    for name in (b"traceparent", b"tracestate"):
        value = incoming.get(name)
        if value is not None and len(value) <= 512:
            headers.append((name, value))
    return headers


def _bound(call: Call, offer: Offer) -> int:
    """The bound of an answer whose caller gave none; 0 where the model's context is that."""
    features = call.features
    assert features is not None  # noqa: S101 - stage order
    bound = call.completion_tokens_max
    context = offer.model.context_length
    own_cap = call.alias is not None and call.alias.max_tokens > 0
    if context and not own_cap and features.prompt_tokens_max + bound > context:
        return 0
    if context:
        bound = min(bound, context)  # vLLM refuses more, and makes what is left of the context the bound by itself
    return bound
