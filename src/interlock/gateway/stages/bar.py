"""bar: a call that drew a canary which it cannot use goes where it would have gone without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.gateway.stages.resolve import stand_for
from interlock.routing.canary import BARRED, CANARY

if TYPE_CHECKING:
    from interlock.gateway.call import Call


def barred(call: Call) -> bool:
    """Point a call that drew a canary at the alias's other targets; True when it had. Policy has not seen these yet.

    What such a call does says nothing about either arm: who may not use the canary is no chance pick of the callers.
    """
    if call.target is None or call.target.canary != CANARY:
        return False
    stand_for(call, None, BARRED)
    call.trial = None
    return True
