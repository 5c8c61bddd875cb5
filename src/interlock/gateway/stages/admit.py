"""admit: room in this worker, in the record log, and within the limits of key, principal and team."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.errors import Unavailable
from interlock.metering.limits import LimitHit

if TYPE_CHECKING:
    from interlock.gateway.call import Call
    from interlock.gateway.runtime import Runtime


def admit(call: Call, runtime: Runtime) -> None:
    """Fill `call.admission` and `call.reserved_tokens`. Raises LimitExceeded, LogError or Unavailable.

    After the checks that cost nothing to refuse. What is reserved here is settled whatever follows: a call that finds
    no source gives its tokens back, and counts as one request of its minute.
    """
    identity, features = call.identity, call.features
    assert identity is not None and features is not None  # noqa: S101 - stage order
    if runtime.draining and not call.admitted:
        raise Unavailable("This gateway is shutting down; try again.", code="draining")
    refusal = runtime.log.refusal
    if refusal is not None:
        raise refusal
    if call.admitted:
        return  # before it waited for an engine
    if len(runtime.runs) + len(runtime.waiting) >= runtime.settings.calls_max:
        raise Unavailable(
            f"This worker has {runtime.settings.calls_max} calls in progress; try again.",
            code="overloaded",
            headers={"retry-after": "1"},
        )
    tokens = features.prompt_tokens_max + features.completion_tokens_max
    if call.target is not None and call.target.steps:
        tokens *= len(call.target.steps)
    call.reserved_tokens = tokens
    if not identity.subjects:
        return
    admission = runtime.limits.admit(identity.subjects, tokens, runtime.clock.mono_ns())
    if isinstance(admission, LimitHit):
        runtime.metrics.limit_hits.add((admission.kind, admission.limit))
        raise admission.error()
    call.admission = admission
