"""The models that a caller may know of: exact names, and aliases with a target that it may use."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from interlock.gateway.stages.authorize import fresh_enough
from interlock.types.identity import DataClass

if TYPE_CHECKING:
    from interlock.gateway.http.exchange import Request
    from interlock.gateway.runtime import Runtime
    from interlock.types.source import Offer


class Listed(NamedTuple):
    """One name. `offers`: those behind it that the caller may use; `owner`: "source" or "alias"."""

    name: str
    offers: tuple[Offer, ...]
    owner: str


def listed(request: Request, runtime: Runtime) -> list[Listed]:
    """By name. Raises Unauthenticated, and Unavailable when too little is known to answer."""
    state = runtime.state
    fresh_enough(DataClass.public, runtime.clock.wall_ns(), runtime)
    caller = runtime.authenticator.identify(request.headers, state.view).caller
    catalog = state.view.catalog(caller.principal.tenant_id)
    found = []

    def add(name: str, offers: tuple[Offer, ...], owner: str) -> None:
        usable = tuple([offer for offer in offers if state.policy.may_list(caller, offer)])
        if usable:
            found.append(Listed(name, usable, owner))

    for name, offers in catalog.by_model.items():
        add(name, offers, "source")
    now_s = runtime.clock.wall_ns() // 1_000_000_000
    for alias in catalog.aliases.values():
        if alias.name in catalog.by_model or (alias.sunset_s and now_s >= alias.sunset_s):
            continue
        named = [catalog.by_model.get(t.model.rpartition("@")[0] or t.model, ()) for t in alias.targets]
        offers = tuple([offer for each in named for offer in each]) if alias.targets else catalog.offers
        add(alias.name, offers, "alias")
    found.sort(key=lambda one: one.name)
    return found
