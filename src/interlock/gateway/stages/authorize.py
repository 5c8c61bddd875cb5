"""authorize: which offers policy allows this caller for this request, with the reasons both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.errors import Denied, Unavailable
from interlock.gateway.stages.bar import barred
from interlock.routing.resolve import not_found

if TYPE_CHECKING:
    from interlock.gateway.call import Call
    from interlock.gateway.runtime import Runtime
    from interlock.types.identity import DataClass


def authorize(call: Call, runtime: Runtime) -> None:
    """Fill `call.authorization` and `call.allowed`.

    Raises Unavailable when the snapshot is too old for the data class, Denied when the caller may list the model but
    not use it so, ModelNotFound for any model it may not even list.
    """
    identity, features = call.identity, call.features
    assert identity is not None and features is not None and call.data_class is not None  # noqa: S101 - stage order
    fresh_enough(call.data_class, call.wall_ns, runtime)
    policy = call.state.policy
    call.authorization, call.allowed = policy.rule(identity.caller, features, call.offers, call.wall_ns)
    if call.state.trials is not None:
        call.trials = call.state.trials.tried(identity.caller, features, call.offers, call.authorization, call.wall_ns)
        for tried in call.trials:
            runtime.metrics.policy_trials.add((tried.would,))
    if call.allowed:
        return
    if barred(call):
        authorize(call, runtime)
        return
    listed = any(policy.may_list(identity.caller, offer) for offer in call.offers)
    if not listed:
        raise not_found(features.asked)
    raise Denied(_words(call), param="model")


def fresh_enough(data_class: DataClass, wall_ns: int, runtime: Runtime) -> None:
    """Raise Unavailable when the snapshot was confirmed too long ago for the data class: keys may have been revoked."""
    age_s = (wall_ns - runtime.confirmed_ns) // 1_000_000_000
    if age_s > runtime.snapshot_age_max_s[data_class]:
        raise Unavailable(
            f"What this gateway knows of keys and policies was last confirmed {age_s} s ago, too long for "
            f"{data_class.name} data.",
            code="snapshot_stale",
            headers={"retry-after": "5"},
        )


def _words(call: Call) -> str:
    """Why, in one sentence a developer can act on: the distinct reasons, at most three."""
    assert call.authorization is not None and call.features is not None  # noqa: S101 - stage order
    seen: list[str] = []
    for reason in call.authorization.denials:
        # That a source exists which was not granted is nothing a caller needs to know.
        if reason.stage != "grant" and reason.words not in seen:
            seen.append(reason.words)
    why = "; ".join(seen[:3]) or "no policy permits it"
    return f"Policy does not permit this call to {call.features.asked!r}: {why}."
