"""Judges of answers that tenants ask now and that are not trusted: what `interlock doctor` is told of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from psycopg import Connection

from interlock.errors import ModelNotFound
from interlock.routing.canary import RUNNING
from interlock.routing.catalog import Catalog, offers_of
from interlock.routing.resolve import resolve
from interlock.storage import aliases, learned, sources
from interlock.types.identity import Tenant
from interlock.types.learned import arm_of
from interlock.types.request import Target


class JudgeFacts(msgspec.Struct, frozen=True):
    """A judge that is asked and whose verdicts count for nothing. `asked`: the model or alias that the tenant names,
    `judge`: the model that was found out (with its version, where that is known). `why`: "chance" or "constant".
    `pairs`: answers with its score and somebody else's word, of the last that are kept."""

    tenant: str
    asked: str
    judge: str
    why: str
    pairs: int


def doubted(conn: Connection[Any], everyone: Iterable[Tenant], now_s: int) -> list[JudgeFacts]:
    """Of each tenant that has answers judged. A transaction of the platform's. `now_s`: Unix seconds."""
    asking = [t for t in everyone if t.active and t.learning != "off" and _asks(t)]
    if not asking:
        return []
    offers, named = offers_of(sources.everything(conn)), aliases.everything(conn)
    found = []
    for tenant in sorted(asking, key=lambda t: t.name):
        state = learned.current(conn, tenant.id)
        doubts = [each for each in (state.judges if state is not None else ()) if not each.trusted]
        if doubts and tenant.judging is not None:
            asked = tenant.judging.model
            now = arms_of(Catalog(tenant.id, offers, named), asked, now_s)
            found += [
                JudgeFacts(tenant.name, asked, each.judge, each.why, sum(each.origins.values()))
                for each in doubts
                if each.judge in now
            ]
    return found


def arms_of(catalog: Catalog, name: str, now_s: int) -> frozenset[str]:
    """The models that a name leads to, whatever is drawn: of an alias all targets, and its canary while that runs."""
    alias = None if name in catalog.exact else catalog.aliases.get(name)
    try:
        targets = [resolve(name, catalog, now_s=now_s, seed=0)]
    except ModelNotFound:
        return frozenset()
    if alias is not None:
        given = [*alias.targets]
        if alias.canary is not None and alias.canary.state == RUNNING:
            given.append(alias.canary.target)
        targets = [Target(kind="alias", model=each.model, source=each.source) for each in given]
    return frozenset(
        arm_of(offer.model)
        for target in targets
        for offer in catalog.offers_for(target)
        if not target.version or offer.model.version == target.version
    )


def _asks(tenant: Tenant) -> bool:
    judging = tenant.judging
    return judging is not None and bool(judging.share_milli or judging.challenger_milli)
