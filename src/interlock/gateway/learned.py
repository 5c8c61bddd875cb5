"""What the router has learned, as a worker uses it: decoded when a tenant first needs it, while it is in force."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from interlock.routing.slo import NO_PACES
from interlock.types.identity import Recording
from interlock.types.learned import Weights, Words, arm_of, weights_part, words_part
from interlock.wire.asked import asked_last, asked_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from interlock.gateway.call import Call
    from interlock.gateway.snapshot import SnapshotView
    from interlock.learning.published import Expectations, Reader
    from interlock.types.learned import Estimates
    from interlock.types.slo import Pace
    from interlock.types.source import Offer
    from interlock.wire.openai import Parsed

log = logging.getLogger("interlock.gateway")

READ = frozenset(("chat", "completions"))
"""Operations whose prompts are read."""
_METADATA = int(Recording.metadata)
_any = msgspec.json.Decoder()


class _Known(NamedTuple):
    """A tenant's state. `weights`, `words`: hashes of the parts that it was made of."""

    weights: bytes
    words: bytes
    expectations: Expectations | None
    reader: Reader | None


class Learned:
    """The states of the tenants that call, at most `most`; when there are more, remembering starts over."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str, _Known] = {}
        self._unheeded: dict[str, tuple[bytes, frozenset[str]]] = {}

    def estimates(self, call: Call) -> Estimates | None:
        """What to expect of each model for this call, None when nothing was learned or there is nothing to choose.

        Reads the prompt and puts its signals into `call.features`, unless nothing of it may be kept.
        """
        parsed, features, known = call.parsed, call.features, self._choosing(call)
        assert parsed is not None and features is not None  # noqa: S101 - stage order
        if known is None or known.expectations is None:
            return None
        if known.reader is not None and parsed.operation in READ and call.recording < _METADATA:
            call.features = msgspec.structs.replace(features, signals=known.reader.signals(_asked(parsed)))
        return _expected(call, known)

    def estimated(self, call: Call) -> Estimates | None:
        """The same of a call that was decided, from the signals that were read then: the prompt is not read again."""
        return _expected(call, self._choosing(call))

    def _choosing(self, call: Call) -> _Known | None:
        """What is known of its tenant, if that decides calls and this one has several models to choose from."""
        identity, view = call.identity, call.state.view
        assert identity is not None  # noqa: S101 - stage order
        tenant = view.tenant(identity.tenant_id)
        if tenant is None or tenant.learning != "on":
            return None
        known = self._of(view, identity.tenant_id)
        return known if known is not None and _several(call.allowed) else None

    def paces(self, call: Call) -> Mapping[str, Pace]:
        """How quickly offers answer by what was learned of them; empty where nothing was."""
        identity, view = call.identity, call.state.view
        assert identity is not None  # noqa: S101 - stage order
        tenant = view.tenant(identity.tenant_id)
        if tenant is None or tenant.learning != "on":
            return NO_PACES
        known = self._of(view, identity.tenant_id)
        return NO_PACES if known is None or known.expectations is None else known.expectations.paces

    def unheeded(self, view: SnapshotView, tenant_id: str) -> frozenset[str]:
        """Judges of a tenant whose verdicts count for nothing, by the state in force, as arms."""
        weights = view.part_hash(weights_part(tenant_id))
        if not weights:
            return _NOBODY
        known = self._unheeded.get(tenant_id)
        if known is None or known[0] != weights:
            if len(self._unheeded) >= self._most:
                self._unheeded.clear()
            try:
                told = msgspec.msgpack.decode(view.part_body(weights_part(tenant_id)), type=Weights | None)
            except msgspec.MsgspecError:  # where calls are decided by it, the log says so
                told = None
            judges = told.judges if told is not None else ()
            known = self._unheeded[tenant_id] = (weights, frozenset(j.judge for j in judges if not j.trusted))
        return known[1]

    def _of(self, view: SnapshotView, tenant_id: str) -> _Known | None:
        weights = view.part_hash(weights_part(tenant_id))
        if not weights:
            return None
        words = view.part_hash(words_part(tenant_id))
        known = self._known.get(tenant_id)
        if known is None or known.weights != weights or known.words != words:
            if len(self._known) >= self._most:
                self._known.clear()
            known = self._known[tenant_id] = _decoded(view, tenant_id, weights, words, known)
        return known


def _expected(call: Call, known: _Known | None) -> Estimates | None:
    """What is expected of each model by what was read of the call."""
    assert call.features is not None  # noqa: S101 - stage order
    if known is None or known.expectations is None:
        return None
    return known.expectations.estimates(call.features.signals, int(call.features.data_class))


def _asked(parsed: Parsed) -> str:
    """What is asked. A conversation is not decoded once more while its messages are there."""
    return asked_last(parsed.messages) or asked_text(
        {name: _any.decode(parsed.fields[name]) for name in _PROMPTS if name in parsed.fields}
    )


_PROMPTS = ("messages", "prompt")
_NOBODY: frozenset[str] = frozenset()


def _several(offers: Sequence[Offer]) -> bool:
    first = arm_of(offers[0].model)
    return any(arm_of(offer.model) != first for offer in offers)


def _decoded(view: SnapshotView, tenant_id: str, weights: bytes, words: bytes, before: _Known | None) -> _Known:
    """The state from its parts. One that cannot be used is as none: priors count, and the log says why."""
    from interlock.learning.published import Expectations, Reader  # numpy: only where there is something learned

    try:
        told = msgspec.msgpack.decode(view.part_body(weights_part(tenant_id)), type=Weights | None)
        if told is None:
            return _Known(weights, words, None, None)
        expectations = Expectations(told)
        reader = before.reader if before is not None and before.words == words else None
        if reader is None and words and told.words:
            how = msgspec.msgpack.decode(view.part_body(words_part(tenant_id)), type=Words | None)
            reader = Reader(how) if how is not None else None
        if reader is not None and reader.version != told.words:
            reader = None
        return _Known(weights, words, expectations, reader)
    except (msgspec.MsgspecError, ValueError) as e:
        log.error("what was learned cannot be read", extra={"tenant_id": tenant_id, "why": str(e)})
        return _Known(weights, words, None, None)
