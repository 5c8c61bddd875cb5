"""What administrators do about what the router learned: say how good a model is, unsay it, have something forgotten.

Each is a change with its reason, in one transaction with what it does. Whoever calls these has asked for permission.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from interlock.errors import BadRequest, NotFound
from interlock.routing.catalog import Catalog, offers_of
from interlock.storage import changes, learned, ledger_read, router_guidance, router_quality, router_shared, sources
from interlock.storage.changes import Author, Change
from interlock.storage.router_guidance import EVERYTHING, Reset, RouterPrior
from interlock.types.learned import Weights, arm_of
from interlock.types.source import Ability

if TYPE_CHECKING:
    from psycopg import Connection

    from interlock.control.apply import Reason
    from interlock.control.identity import Actor
    from interlock.control.services.base import Tools
    from interlock.storage.pool import Store
    from interlock.storage.table import Stored

MICRO = 1_000_000


class Forgotten(msgspec.Struct, frozen=True):
    """`arm` "": everything. `outcomes`: how many the state that there was rested on. Entries of the ledger up to
    `position` teach nothing of it any more."""

    arm: str
    outcomes: int
    position: int


def arms_of(store: Store, tenant_id: str) -> list[str]:
    """What there is to choose from in a tenant: its models that answer prompts, a known version each."""
    with store.platform() as conn:
        offers = offers_of(sources.everything(conn))
    wanted = {Ability.chat.value, Ability.completions.value}
    there = Catalog(tenant_id, offers, ()).offers
    return sorted({arm_of(offer.model) for offer in there if wanted & set(offer.model.abilities)})


def put(
    store: Store, tools: Tools, actor: Actor, tenant_id: str, prior: tuple[str, int, int], reason: Reason
) -> Stored[RouterPrior]:
    """Say of an arm what to expect of it: (arm, quality in millionths, outcomes that this counts as). Raises
    BadRequest (out of range, or without a reason), NotFound (no such model)."""
    arm, quality_micro, outcomes = prior
    most = tools.settings.learning_set_outcomes_max
    if not 0 <= quality_micro <= MICRO:
        raise BadRequest("quality is from 0 to 1", param="quality")
    if not 1 <= outcomes <= most:
        raise BadRequest(f"outcomes is from 1 to {most} (learning_set_outcomes_max)", param="outcomes")
    by = _author(actor, tools, reason)
    there = arms_of(store, tenant_id)
    with store.tenant(tenant_id) as conn:
        if arm not in there and router_guidance.of_arm(conn, tenant_id, arm) is None:
            raise NotFound(f"there is no model {arm!r} to choose; there is {', '.join(there) or 'none'}", param="arm")
        made = RouterPrior(
            tools.new_id("router_prior"), tenant_id, arm, quality_micro, outcomes, actor.name, reason.text
        )
        return router_guidance.put(conn, made, by)


def delete(store: Store, tools: Tools, actor: Actor, tenant_id: str, arm: str, reason: Reason) -> None:
    """Unsay it: what was learned counts alone again. Raises BadRequest, NotFound."""
    with store.tenant(tenant_id) as conn:
        found = router_guidance.of_arm(conn, tenant_id, arm)
        if found is None:
            raise NotFound(f"nothing was set of model {arm!r}", param="arm")
        router_guidance.delete(conn, found.value.id, _author(actor, tools, reason))


def reset(store: Store, tools: Tools, actor: Actor, tenant_id: str, arm: str, reason: Reason) -> Forgotten:
    """Forget what was learned of an arm, or ("") everything: at once for decisions, and for the learner, whatever the
    ledger still has of it. What administrators said stays. Raises BadRequest, NotFound (nothing was learned of it).

    INVARIANT: the learner publishes nothing meanwhile (`router_guidance.in_turn`).
    """
    by = _author(actor, tools, reason)
    with store.tenant(tenant_id) as conn:
        router_guidance.in_turn(conn, tenant_id)
        before = learned.current(conn, tenant_id)
        if arm != EVERYTHING and (before is None or arm not in {each.arm for each in before.arms}):
            raise NotFound(f"nothing was learned of model {arm!r}", param="arm")
        position = ledger_read.sizes(conn, [tenant_id]).get(tenant_id, 0) - 1
        version = before.version + 1 if before is not None else 0
        outcomes = _outcomes(before, arm)
        was: dict[str, Any] = {"version": before.version if before is not None else 0, "outcomes": outcomes}
        name = f"{tenant_id}/{arm}" if arm else tenant_id
        change = Change(tenant_id, "router.reset", "router", name, was, {"arm": arm, "position": position})
        changes.record(conn, change, by)
        router_guidance.reset(conn, tenant_id, Reset(arm, position, version))
        _take_out(conn, tenant_id, arm, before)
    return Forgotten(arm, outcomes, position)


def _take_out(conn: Connection[Any], tenant_id: str, arm: str, before: Weights | None) -> None:
    """Let the next snapshot be without it. The learner follows with a state of its own."""
    if before is None:
        return
    left = tuple(each for each in before.arms if each.arm != arm)
    if arm == EVERYTHING or not left:
        learned.clear(conn, tenant_id)
        return
    # What is known of judges rests on answers of several models, and may on those of this one.
    without = msgspec.structs.replace(before, version=before.version + 1, arms=left, judges=())
    learned.publish(conn, tenant_id, without, None)
    router_quality.take_out(conn, tenant_id, arm, before.version + 1)
    router_shared.take_out(conn, tenant_id, arm)


def _outcomes(weights: Weights | None, arm: str) -> int:
    if weights is None:
        return 0
    return sum(
        round(sum(c.outcomes_milli for c in each.capabilities) / 1000)
        for each in weights.arms
        if arm in (EVERYTHING, each.arm)
    )


def _author(actor: Actor, tools: Tools, reason: Reason) -> Author:
    return Author(actor.principal_id, actor.name, reason.text, tools.now(), reason.request_id)
