"""One snapshot made usable by a worker. A call keeps the state it began with, so that it never mixes versions."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING

from interlock.gateway.links import Link
from interlock.policy.engine import PolicyEngine

if TYPE_CHECKING:
    from interlock.gateway.snapshot import SnapshotView

PREPARED_TENANTS_MAX = 16
"""Tenants whose policies are parsed before a snapshot is used (some ms each); others at their first call."""
SALTS_MAX = 4096
"""Tenants whose cache salts are remembered; more start over."""


class State:
    """A snapshot, the policies compiled from it, and the links to its sources. Immutable but for its caches."""

    def __init__(self, view: SnapshotView, policy: PolicyEngine, links: dict[str, Link], salt_secret: bytes) -> None:
        self.view = view
        self.version = view.version
        self.root = view.root
        self.policy = policy
        self.links = links
        """By source id."""
        self._salt_secret = salt_secret
        self._salts: dict[str, str] = {}

    def cache_salt(self, tenant_id: str) -> str:
        """The tenant's prefix-cache salt: same tenant, same cache; another tenant cannot guess or share it."""
        salt = self._salts.get(tenant_id)
        if salt is None:
            if len(self._salts) >= SALTS_MAX:
                self._salts.clear()
            digest = hmac.digest(self._salt_secret, b"cache-salt\0" + tenant_id.encode(), hashlib.sha256)
            salt = self._salts[tenant_id] = digest.hex()[:32]
        return salt


def build_state(
    view: SnapshotView,
    before: State | None,
    *,
    link: Callable[[str], Link],
    policy_cache_max: int,
    salt_secret: bytes,
) -> State:
    """The state of a new snapshot; policies are compiled again only when something they depend on has changed."""
    if before is not None and _same_policies(before.view, view):
        policy = before.policy
    else:
        policy = PolicyEngine(view.policies, view.tenants, view.teams, view.sources, policy_cache_max)
        for tenant in view.tenants[:PREPARED_TENANTS_MAX]:
            policy.slice(tenant.id)  # parsed now, so that no tenant's first call waits for it
    return State(view, policy, {source.id: link(source.id) for source in view.sources}, salt_secret)


def _same_policies(old: SnapshotView, new: SnapshotView) -> bool:
    names = ("policies", "tenants", "teams", "sources")
    return all(old.part_hash(name) == new.part_hash(name) for name in names)
