"""Which speech a call needs at a source. None: source and pivot speak the same, the request leaves as it was checked
and the answer as it came."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.gateway.responses_speech import ResponsesSpeech
from interlock.types.source import Ability, SourceKind
from interlock.wire.anthropic.requests import COUNTING, DIALECT
from interlock.wire.anthropic.speech import NO_COUNT, Messages, TokenCount
from interlock.wire.ollama.speech import OllamaSpeech

if TYPE_CHECKING:
    from interlock.types.source import Offer
    from interlock.wire.openai import Native
    from interlock.wire.speech import Speech

SPEECHES: dict[SourceKind, Speech] = {
    SourceKind.anthropic: Messages(native=False),
    SourceKind.ollama: OllamaSpeech(),
}
"""How each kind of source is spoken to that does not speak the pivot."""
NATIVE: dict[tuple[str, SourceKind], Speech] = {
    (DIALECT, SourceKind.anthropic): Messages(native=True),
    (COUNTING, SourceKind.anthropic): TokenCount(),
    (COUNTING, SourceKind.vllm): TokenCount(),
    (COUNTING, SourceKind.llamacpp): TokenCount(),
}
"""(the caller's dialect, kind of source) that are one dialect."""


_HAVE_RESPONSES = frozenset((SourceKind.openai, SourceKind.vllm))
"""llama.cpp's own leaves out the format of the answer without a word: it is asked for chats."""


def native_speech(native: Native, offer: Offer) -> Speech | None:
    """For a call in a dialect of its own."""
    kind = offer.source.kind
    if native.dialect == "responses" and kind in _HAVE_RESPONSES and Ability.responses in offer.model.abilities:
        return ResponsesSpeech(offer.source)
    speech = NATIVE.get((native.dialect, kind))
    if speech is None and native.dialect == COUNTING:
        return NO_COUNT
    return speech or SPEECHES.get(kind)
