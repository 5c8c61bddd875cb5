"""Which speech a call needs at a source. None: source and pivot speak the same, the request leaves as it was checked
and the answer as it came."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.types.source import SourceKind
from interlock.wire.ollama.speech import OllamaSpeech

if TYPE_CHECKING:
    from interlock.wire.openai import Native
    from interlock.wire.speech import Speech

SPEECHES: dict[SourceKind, Speech] = {SourceKind.ollama: OllamaSpeech()}
"""How each kind of source is spoken to that does not speak the pivot."""
NATIVE: dict[tuple[str, SourceKind], Speech] = {}
"""(the caller's dialect, kind of source) that are one dialect."""


def native_speech(native: Native, kind: SourceKind) -> Speech | None:
    """For a call in a dialect of its own."""
    return NATIVE.get((native.dialect, kind)) or SPEECHES.get(kind)
