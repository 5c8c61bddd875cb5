"""What another configuration would make of logged calls, for the admin API and the console: who looks is recorded."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from interlock.control import replay, whatif
from interlock.control.comparing import Asker, Period, alone
from interlock.control.plan import Change
from interlock.control.replay import Decided
from interlock.control.rerouting.change import Otherwise, Ways, checked, ways
from interlock.control.rerouting.deciding import Pasts, again
from interlock.control.rerouting.report import Changed, Decisions, Rerouted
from interlock.control.rerouting.tally import Answered, Tally, answered_of
from interlock.control.services import ledger, looks
from interlock.ledger.vault import KeyWrapper
from interlock.storage import feedback, ledger_read
from interlock.storage.ledger_keys import LedgerKeys, read_key

if TYPE_CHECKING:
    from interlock.control.apply import Configurator

_PAGE = 500


class Proposed(NamedTuple):
    """The change: configuration files as (name, text), none: the configuration stays; and other ways to decide."""

    files: tuple[tuple[str, str], ...]
    otherwise: Otherwise


def what_if(asker: Asker, configurator: Configurator, tenant_id: str, proposed: Proposed, period: Period) -> Rerouted:
    """Decide logged calls of a tenant again, as things are and under the change. Nothing is changed; the look at the
    ledger is recorded. The caller has asked for permission to read it; files need that of a plan.

    Raises BadRequest, ConfigError(s), Conflict while another comparison runs, Denied, StoreError.
    """
    otherwise = checked(proposed.otherwise)
    with alone():
        changes, now, then = _sides(asker, configurator, tenant_id, proposed.files, otherwise)
        tally = Tally({team.id: team.name for team in (*now.ground.teams, *then.ground.teams)})
        calls = _Calls(asker, tenant_id, period)
        pasts = Pasts(tenant_id, calls.past, asker.tools.settings.what_if_snapshots_max)
        for found in calls.each(asker.tools.settings.what_if_calls_max):
            tally.add(found.record, again(found.record, pasts, now, then), found.answered)
        looks.note(
            asker.store,
            asker.tools,
            asker.actor,
            tenant_id,
            "ledger.route_what_if",
            "",
            {"calls": calls.seen},
            asker.reason,
        )
        return _told(tally, changes, now, then, whole=calls.whole)


def _told(tally: Tally, changes: Iterable[Change], now: Ways, then: Ways, *, whole: bool) -> Rerouted:
    from interlock.control.rerouting.figures import figures, quality  # numpy: only where it is asked for

    decisions = tally.decisions(whole=whole)
    return Rerouted(
        tuple(Changed(c.operation, c.kind, c.name) for c in changes),
        decisions,
        figures(tally.rows, now.catalog.by_key, then.catalog.by_key),
        quality(tally),
        _notes(decisions, now, then),
    )


def _sides(
    asker: Asker,
    configurator: Configurator,
    tenant_id: str,
    files: Sequence[tuple[str, str]],
    otherwise: Otherwise,
) -> tuple[tuple[Change, ...], Ways, Ways]:
    now_ns = asker.tools.clock.wall_ns()
    with asker.store.platform() as conn:
        there = whatif.ground(conn, tenant_id, now_ns)
    changes: tuple[Change, ...] = ()
    supposed = there
    if files:
        with configurator.supposed(asker.actor, files) as (conn, plan):
            supposed = whatif.ground(conn, tenant_id, now_ns)
            changes = plan.changes
    return changes, ways(there, tenant_id), ways(supposed, tenant_id, otherwise)


def _notes(told: Decisions, now: Ways, then: Ways) -> tuple[str, ...]:
    notes = []
    if told.drifted:
        notes.append(
            f"{told.drifted} calls are decided otherwise than they were without the change already: the configuration"
            " has changed since"
        )
    if then.learning == "on" and now.learning != "on" and told.read < told.again:
        notes.append("no prompt was read while nothing learned decided: there each model counts with its mean")
    new = sorted(then.catalog.by_key.keys() - now.catalog.by_key.keys())
    if new:
        notes.append(f"nothing is known of the load and speed of {', '.join(new)}: each counts as half loaded")
    return tuple(notes)


class _Found(NamedTuple):
    """A logged call."""

    record: Decided | None
    answered: Answered | None


class _Calls:
    """Reads logged calls of a tenant with what they took, newest first, in many short transactions."""

    def __init__(self, asker: Asker, tenant_id: str, period: Period) -> None:
        self._store, self._settings = asker.store, asker.tools.settings
        master = KeyWrapper(read_key(self._settings.ledger_key_path(), "the ledger's master key"), secrets.token_bytes)
        self._keys = LedgerKeys(master, secrets.token_bytes, self._settings.ledger_keys_max)
        self._tenant_id = tenant_id
        self._wanted = ledger_read.Filter(period.since_ns, period.until_ns)
        self.seen = 0
        self.whole = True

    def past(self, version: int) -> replay.Past:
        """A snapshot version, as far as it concerns the tenant."""
        with self._store.platform() as conn:
            return replay.past(conn, version, self._tenant_id)

    def each(self, most: int) -> Iterator[_Found]:
        """At most `most` calls; `whole` is false then when there are more."""
        before = 0
        while self.seen < most:
            position, found = self._page(before, min(_PAGE, most - self.seen))
            if not found:
                return
            self.seen += len(found)
            yield from found
            before = position
            if before == 0:
                return
        self.whole = not self._page(before, 1)[1]

    def _page(self, before: int, limit: int) -> tuple[int, list[_Found]]:
        with self._store.tenant(self._tenant_id) as conn:
            entries = ledger_read.decided(conn, self._tenant_id, self._wanted, before=before, limit=limit)
            requests = [entry.request for entry in entries]
            rewards = feedback.rewards(conn, self._tenant_id, requests)
            measured = _measured(ledger_read.measurements(conn, self._tenant_id, requests))
            found = []
            for entry in entries:
                leaf = msgspec.json.decode(entry.leaf)
                record = ledger.record_in(conn, self._tenant_id, leaf, self._keys, self._settings)
                told = answered_of(leaf, measured.get(entry.request), rewards.get(entry.request))
                found.append(_Found(record, told))
        return (entries[-1].position if entries else 0), found


def _measured(entries: Iterable[ledger_read.Entry]) -> dict[str, int]:
    out: dict[str, Any] = {}
    for entry in entries:
        out[entry.request] = msgspec.json.decode(entry.leaf)["energy"]["uj"]
    return out
