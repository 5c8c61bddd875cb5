"""Comparisons of policies over the ledger, for the admin API and the console: who looks, and that it is recorded."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from interlock.control import trials, whatif
from interlock.control.services import ledger, looks
from interlock.errors import Conflict
from interlock.ledger.vault import KeyWrapper
from interlock.storage import ledger_read, policy_drafts
from interlock.storage.ledger_keys import LedgerKeys, read_key
from interlock.storage.tenants import PLATFORM_TENANT

if TYPE_CHECKING:
    from interlock.control.apply import Reason
    from interlock.control.identity import Actor
    from interlock.control.replay import Decided
    from interlock.control.services.base import Tools
    from interlock.storage.policy_drafts import Written
    from interlock.storage.pool import Store

_COMPARING = threading.Lock()
"""One comparison at a time in a process: each may take many seconds of its CPU."""


class Asker(NamedTuple):
    """Who compares, over what, and why. The caller has asked for permission to read the ledger."""

    store: Store
    tools: Tools
    actor: Actor
    reason: Reason


class Period(NamedTuple):
    """Calls admitted in [since_ns, until_ns), Unix nanoseconds, 0: open. `examples`: so many are listed at most."""

    since_ns: int
    until_ns: int
    examples: int


def differing(before: Iterable[Written], after: Iterable[Written]) -> tuple[tuple[str, str], ...]:
    """(id, "create", "update" or "delete") of the policies that two sets do not have in common."""
    old, new = ({p.id: p for p in policies} for policies in (before, after))
    return tuple(
        (name, "delete" if name not in new else "update" if name in old else "create")
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


def matrix(store: Store, tools: Tools, tenant_id: str, proposed: Sequence[Written], examples: int) -> whatif.Matrix:
    """What the proposed set would change for every caller. It reads no ledger. Raises Conflict while another runs."""
    with alone(), store.platform() as conn:
        there = whatif.ground(conn, tenant_id, tools.clock.wall_ns())
        then = there.with_policies(tenant_id, policy_drafts.texts(tenant_id, proposed))
        most = tools.settings.what_if_cells_max
        return whatif.matrix(there, there.engine(there.policies), then, cells_max=most, examples_max=examples)


def what_if(
    asker: Asker, tenant_id: str, proposed: Sequence[Written], differs: tuple[tuple[str, str], ...], period: Period
) -> whatif.WhatIf:
    """What the proposed set would change for every caller, and would have for logged calls. The look at the ledger is
    recorded. Raises Conflict while another comparison runs."""
    settings = asker.tools.settings
    with alone():
        with asker.store.platform() as conn:
            there = whatif.ground(conn, tenant_id, asker.tools.clock.wall_ns())
        now = there.engine(there.policies)
        then = there.with_policies(tenant_id, policy_drafts.texts(tenant_id, proposed))
        cells = whatif.matrix(there, now, then, cells_max=settings.what_if_cells_max, examples_max=period.examples)
        compared = whatif.Comparison(there, now, then, period.examples)
        whole = _each(asker, there, tenant_id, compared, period, "ledger.what_if")
        return whatif.WhatIf(differs, cells, compared.result(whole=whole))


def report(asker: Asker, tenant_id: str, period: Period) -> trials.Report:
    """What was recorded, with each call, of the policies that only report. The look is recorded. Raises Conflict while
    another comparison runs."""
    with asker.store.platform() as conn:
        there = whatif.ground(conn, tenant_id, asker.tools.clock.wall_ns())
        digest = next((t.digest for t in policy_drafts.trials(conn) if t.tenant_id == tenant_id), "")
    with alone():
        found = trials.Tally(tenant_id, digest, period.examples, there.principals)
        whole = _each(asker, there, tenant_id, found, period, "ledger.policy_report")
        return found.result(whole=whole)


def _each(asker: Asker, there: whatif.Ground, tenant_id: str, into: whatif.Adding, period: Period, action: str) -> bool:
    """Add the calls of a tenant, or of all for "", and record the look; whether those were all of the period."""
    read = _Calls(asker, period)
    whole, left = True, asker.tools.settings.what_if_calls_max
    for place in [tenant_id] if tenant_id else [t.id for t in there.tenants if t.id != PLATFORM_TENANT]:
        added = read.seen
        whole &= whatif.compare(into, read.of(place), left)
        count = read.seen - added
        left -= count
        looks.note(asker.store, asker.tools, asker.actor, place, action, "", {"calls": count}, asker.reason)
    return whole


@contextmanager
def alone() -> Iterator[None]:
    """One comparison at a time in a process. Raises Conflict while another runs."""
    if not _COMPARING.acquire(blocking=False):
        raise Conflict("another what-if or report is running; try again", code="locked")
    try:
        yield
    finally:
        _COMPARING.release()


class _Calls:
    """Reads logged calls of a period, newest first, in many short transactions."""

    def __init__(self, asker: Asker, period: Period) -> None:
        self._store, self._settings = asker.store, asker.tools.settings
        master = KeyWrapper(read_key(self._settings.ledger_key_path(), "the ledger's master key"), secrets.token_bytes)
        self._keys = LedgerKeys(master, secrets.token_bytes, self._settings.ledger_keys_max)
        self._wanted = ledger_read.Filter(period.since_ns, period.until_ns)
        self.seen = 0

    def of(self, tenant_id: str) -> whatif.Read:
        """Those of one tenant."""

        def read(before: int, limit: int) -> list[tuple[int, str, Decided | None]]:
            with self._store.tenant(tenant_id) as conn:
                entries = ledger_read.decided(conn, tenant_id, self._wanted, before=before, limit=limit)
                leaves = [(e, msgspec.json.decode(e.leaf)) for e in entries]
                found = [
                    (e.position, e.request, ledger.record_in(conn, tenant_id, leaf, self._keys, self._settings))
                    for e, leaf in leaves
                ]
            self.seen += len(found)
            return found

        return read
