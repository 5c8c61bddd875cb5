"""resolve: what is asked for (model, alias or mode), how sensitive it is, and how large it can get."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from interlock.errors import BadRequest
from interlock.gateway.canary import state_of, trial_of
from interlock.gateway.stages import labels
from interlock.gateway.stages.objectives import HEADERS as OBJECTIVES
from interlock.gateway.stages.objectives import objectives
from interlock.routing.resolve import CASCADING, MODES
from interlock.routing.resolve import resolve as resolve_name
from interlock.types.identity import DataClass, Recording, Workload
from interlock.wire.fields import SET_PRIORITY
from interlock.wire.openai import NO_OWN, features

if TYPE_CHECKING:
    from interlock.gateway.call import Call
    from interlock.gateway.runtime import Runtime
    from interlock.types.request import Target

_CLASSES = {c.name: c for c in DataClass}
_WORKLOADS = {w.name: w for w in Workload}
_RECORDINGS = {r.name: int(r) for r in Recording}
_RECORDING, _DATA_CLASS, _PURPOSE = b"x-interlock-recording", b"x-interlock-data-class", b"x-interlock-purpose"
_CLASS, _WORKLOAD = b"x-interlock-class", b"x-interlock-workload"
_MORE = labels.HEADERS | OBJECTIVES
_SAID = _MORE | {_RECORDING, _DATA_CLASS, _PURPOSE, _CLASS, _WORKLOAD}
"""Header fields by which a caller says anything of its call that is decided here."""
PURPOSE_MAX = 256
"""Longest purpose taken, characters."""
CLASS_MAX = 64
"""Longest request class taken, characters."""


def resolve(call: Call, runtime: Runtime) -> None:
    """Fill target, recording, data class, bounds, features and offers. Raises ModelNotFound or BadRequest."""
    identity, parsed = call.identity, call.parsed
    assert identity is not None and parsed is not None  # noqa: S101 - stage order
    catalog = call.state.view.catalog(identity.tenant_id)
    target = catalog.exact.get(parsed.model)
    alias = None
    if target is None:
        alias = call.alias = catalog.aliases.get(parsed.model)
    says_more = False
    if alias is None and _says_nothing(call):
        call.recording, call.workload = identity.recording, identity.workload
        call.data_class = identity.caller.data_class
    else:
        call.recording = _recording(call)
        call.data_class = _data_class(call)
        parsed.purpose = _purpose(call)
        call.request_class = _request_class(call)
        says_more = parsed.own is not NO_OWN or not _MORE.isdisjoint(call.request.headers)
        if says_more:
            labels.label(call)
        call.workload = _workload(call)
    bound = parsed.max_tokens or (alias.max_tokens if alias is not None else 0)
    bound = bound or runtime.settings.completion_tokens_default
    call.completion_tokens_max = bound
    call.features = features(parsed, call.data_class, bound * max(parsed.n, parsed.generated), call.workload)
    if says_more:
        objectives(call)
    if target is not None and not parsed.mode:
        call.target = target
        call.offers = catalog.offers_for(target)
    elif alias is None or alias.canary is None:
        stand_for(call, target, "")
    else:
        stand_for(call, target, state_of(alias, runtime.canaries))
        call.trial = trial_of(call, runtime)


def _says_nothing(call: Call) -> bool:
    """The caller leaves all of it to its credential: nothing is in the body, or set by its dialect, nor in a header."""
    parsed = call.parsed
    assert parsed is not None  # noqa: S101 - stage order
    said = parsed.own is not NO_OWN or parsed.data_class or parsed.recording or parsed.workload
    return not said and _SAID.isdisjoint(call.request.headers)


def stand_for(call: Call, target: Target | None, canary_state: str) -> None:
    """Fill target and offers. `target`: what the model's name stands for, None to find out; `canary_state`: what is
    known of its alias's canary besides the draw. Raises ModelNotFound or BadRequest."""
    identity, parsed = call.identity, call.parsed
    assert identity is not None and parsed is not None  # noqa: S101 - stage order
    catalog = call.state.view.catalog(identity.tenant_id)
    if target is None:
        target = resolve_name(
            parsed.model,
            catalog,
            now_s=call.wall_ns // 1_000_000_000,
            seed=call.seed,
            principal_id=identity.caller.principal.id,
            canary_state=canary_state,
            cascading=call.operation in CASCADING,
        )
    mode = parsed.mode
    if mode:
        if mode not in MODES:
            raise BadRequest(f"Field 'interlock.mode' must be one of {', '.join(MODES)}.", param="interlock.mode")
        target = msgspec.structs.replace(target, mode=mode, weights=())  # what the caller names holds, not its alias's
    call.target = target
    call.offers = catalog.offers_for(target)


def _recording(call: Call) -> int:
    """What is kept of the call: what tenant and teams ask for, made stricter by alias, header or body, never laxer."""
    identity, parsed = call.identity, call.parsed
    assert identity is not None and parsed is not None  # noqa: S101 - stage order
    strictest = identity.recording
    if call.alias is not None and call.alias.recording > strictest:
        strictest = int(call.alias.recording)
    header = call.request.headers.get(_RECORDING)
    if header is None and not parsed.recording:
        return strictest
    for name in (parsed.recording, header.decode("latin-1") if header is not None else ""):
        if not name:
            continue
        asked = _RECORDINGS.get(name)
        if asked is None:
            raise BadRequest(
                f"The recording {name[:40]!r} is not one of {', '.join(_RECORDINGS)}.", param="interlock.recording"
            )
        strictest = max(strictest, asked)
    return strictest


def _workload(call: Call) -> Workload:
    """The less urgent of what the credential and the alias say; of the header or the body, where that asks for less.
    Who asks for more asks for a policy action."""
    identity, parsed = call.identity, call.parsed
    assert identity is not None and parsed is not None  # noqa: S101 - stage order
    own = identity.workload
    if call.alias is not None and call.alias.workload > own:
        own = call.alias.workload
    header = call.request.headers.get(_WORKLOAD)
    if header is None and not parsed.workload:
        return own
    asked_by = (parsed.workload, header.decode("latin-1").strip() if header is not None else "")
    said = [name for name in asked_by if name]
    for name in said:
        if name not in _WORKLOADS:
            raise BadRequest(
                f"The workload {name[:40]!r} is not one of {', '.join(_WORKLOADS)}.", param="interlock.workload"
            )
    asked = max((_WORKLOADS[name] for name in said), default=own)
    if asked < own and SET_PRIORITY not in parsed.actions:
        parsed.actions = tuple(sorted((*parsed.actions, SET_PRIORITY)))
    return asked


def _purpose(call: Call) -> str:
    """Why the call is made, in the caller's words: body field or header; recorded, and nothing is decided by it."""
    assert call.parsed is not None  # noqa: S101 - stage order
    purpose = call.parsed.purpose
    header = call.request.headers.get(_PURPOSE)
    if header is None and not purpose:
        return ""
    purpose = purpose or (header or b"").decode("utf-8", "replace")
    if len(purpose) > PURPOSE_MAX or not purpose.isprintable():
        raise BadRequest(f"The purpose must be at most {PURPOSE_MAX} printable characters.", param="interlock.purpose")
    return purpose


def _request_class(call: Call) -> str:
    """The label by which reports tell calls apart: of the body, else the header, else the alias."""
    assert call.parsed is not None  # noqa: S101 - stage order
    label = call.parsed.request_class
    header = call.request.headers.get(_CLASS)
    if header is None and not label:
        return call.alias.request_class if call.alias is not None else ""
    label = label or (header or b"").decode("utf-8", "replace")
    if len(label) > CLASS_MAX or not label.isprintable():
        raise BadRequest(f"The class must be at most {CLASS_MAX} printable characters.", param="interlock.class")
    return label


def _data_class(call: Call) -> DataClass:
    """The class of the call: the credential's default, raised by alias, header or body, never lowered."""
    identity, parsed = call.identity, call.parsed
    assert identity is not None and parsed is not None  # noqa: S101 - stage order
    highest = identity.caller.data_class
    if call.alias is not None and call.alias.data_class > highest:
        highest = DataClass(call.alias.data_class)
    header = call.request.headers.get(_DATA_CLASS)
    if header is None and not parsed.data_class:
        return highest
    for name in (parsed.data_class, header.decode("latin-1") if header is not None else ""):
        if not name:
            continue
        asked = _CLASSES.get(name)
        if asked is None:
            raise BadRequest(
                f"The data class {name[:40]!r} is not one of {', '.join(_CLASSES)}.", param="interlock.data_class"
            )
        highest = max(highest, asked)
    return highest
