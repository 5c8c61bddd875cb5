"""The sequencer: gives shipped entries their places in their tenant's tree, and signs what the tree is.

One process at a time works on a tree (an advisory lock of the transaction), any number on different ones. Entries,
tree, and checkpoint change in one transaction. A checkpoint says more than the tree's size and root: its *coverage*
names every epoch that may hold entries of this tenant, how many of its entries are in the tree, and up to which
instant they are all there, so that a range of time can be proved complete, and an epoch cannot be left out unnoticed.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from psycopg import Connection

from interlock.control.feedback import link
from interlock.control.keyring import Keyring
from interlock.errors import InterlockError, Unavailable
from interlock.ledger import control_entry
from interlock.ledger.proof.checkpoint import Checkpoint
from interlock.ledger.proof.coverage import Coverage, NodeSeen, OpenEpoch, Settled, SettledHead, settled_digest
from interlock.ledger.proof.merkle import CompactRange, leaf_hash
from interlock.ledger.proof.note import Signer, sign_note
from interlock.ledger.proof.tiles import full_tiles
from interlock.ledger.sums import NOTHING, Key, Leaf, Sums, decode_leaf, key_of, label_of, lines_of, measured
from interlock.settings import Settings
from interlock.storage import control_entries, feedback, leases, rotations, sequencing, usage
from interlock.storage.pool import Store, away
from interlock.types.clock import Clock

logger = logging.getLogger(__name__)

RETRY_S = 1.0
LATER_MAX = 5000
"""Most of the entries that wait for a checkpoint which are joined and placed before one."""


class LedgerBroken(InterlockError):
    """The inbox holds what cannot be: a number that does not follow, or another tenant's entry. Nothing is placed."""

    code, status = "ledger_broken", 500


class Sequencer:
    """Places entries and signs checkpoints. `run` is a thread's body; `pass_once` does what there is to do now.

    `signers` sign as long as the key was never changed; after that `keyring` has the one that does.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        clock: Clock,
        signers: Sequence[Signer],
        keyring: Keyring | None = None,
    ) -> None:
        self.placed = 0
        self.alerts = 0
        """Thresholds of budgets passed, as this process placed the entries that did it."""
        self.failing = False
        self._store = store
        self._settings = settings
        self._clock = clock
        self._signers = list(signers)
        self._keyring = keyring or Keyring(settings)
        self._missing = ""
        self._quiet_due_ns = 0

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. An outage of the database is waited for."""
        while True:
            wait_s = self._settings.ledger_sequence_ms / 1000
            try:
                self.pass_once()
                self.failing = False
            except InterlockError as e:
                wait_s = RETRY_S
                if not self.failing:
                    logger.log(
                        logging.WARNING if away(e) else logging.ERROR, "the ledger's entries wait: %s", e.message
                    )
                self.failing = True
            if stop.wait(wait_s):
                return

    def pass_once(self) -> None:
        """Empty the inbox; sign what is due, of quiet tenants too.

        Raises StoreError, LedgerBroken, and Unavailable (at the end) when this machine has not the key to sign with.
        """
        self._missing = ""
        now_ns = self._clock.wall_ns()
        with self._store.sequencing() as conn:
            waiting = sequencing.waiting_tenants(conn)
            unfinished, foldable = leases.unfinished(conn), leases.foldable(conn)
            unkeepable = feedback.to_drop(conn)
            due = sequencing.unsigned_tenants(conn, now_ns - self._settings.ledger_checkpoint_s * 1_000_000_000)
            if now_ns >= self._quiet_due_ns:
                due = sequencing.tenants(conn)
                self._quiet_due_ns = now_ns + self._settings.ledger_quiet_checkpoint_s * 1_000_000_000
                self._forget_feedback(conn, now_ns)
        for tenant_id in waiting:
            while self.sequence(tenant_id) >= self._settings.ledger_batch_entries:
                pass
        for tenant_id in due:
            self.sequence(tenant_id)
        for tenant_id in unfinished:
            self.sequence(tenant_id)
        for tenant_id in foldable:
            self._fold(tenant_id)
        for tenant_id in unkeepable:
            with self._store.tenant(tenant_id) as conn:
                feedback.dropped(conn, tenant_id)
        if self._missing:
            raise Unavailable(self._missing, code="signing_key_missing")

    def sequence(self, tenant_id: str) -> int:
        """Place at most one batch of a tenant's entries, and sign the tree if that is due. Returns how many were
        placed."""
        with self._store.sequencing() as conn:
            if not rotations.share(conn):
                return 0
            tree = sequencing.take_tree(conn, tenant_id)
            if tree is None:
                return 0
            now_ns = max(self._clock.wall_ns(), tree.checkpoint_ns + 1)
            step = _Step(conn, tree, self._settings, self._signing(conn), now_ns)
            count = step.take()
        self.placed += count
        self._tell(step.passed)
        return count

    def _forget_feedback(self, conn: Connection[Any], now_ns: int) -> None:
        """Give up feedback whose call has not come."""
        settings = self._settings
        before_ns = now_ns - settings.feedback_waiting_s * 1_000_000_000
        feedback.forget(conn, before_ns, settings.feedback_waiting_max, LATER_MAX)

    def _fold(self, tenant_id: str) -> None:
        """Replace what finished epochs hold of budgets by what they were charged."""
        with self._store.sequencing() as conn:
            if sequencing.take_tree(conn, tenant_id) is not None:
                leases.fold(conn, tenant_id)

    def _tell(self, passed: list[leases.Passed]) -> None:
        for each in passed:
            self.alerts += 1
            logger.warning(
                "budget %s has reached %d %% of its period",
                each.name,
                each.percent,
                extra={
                    "tenant": each.tenant_id,
                    "budget": each.name,
                    "percent": each.percent,
                    "used": each.used,
                    "amount": each.amount,
                    "measure": each.measure,
                },
            )

    def _signing(self, conn: Connection[Any]) -> list[Signer]:
        """Who signs now; nobody when this machine has not the key: entries are placed, and others sign."""
        key = rotations.current(conn)
        if not key:
            return self._signers
        signer = self._keyring.signer(key)
        if signer is None:
            self._missing = self._keyring.missing(key)
            return []
        return [signer]


def change_over(
    conn: Connection[Any], tree: sequencing.Tree, settings: Settings, signers: Sequence[Signer], at_ns: int
) -> None:
    """Sign a tree as it is, at an instant after its newest checkpoint's. Under `rotations.hold`."""
    _Step(conn, tree, settings, signers, at_ns).take(changing_over=True)


class _Step:
    """One transaction on one tree."""

    def __init__(
        self,
        conn: Connection[Any],
        tree: sequencing.Tree,
        settings: Settings,
        signers: Sequence[Signer],
        now_ns: int,
    ) -> None:
        self._conn = conn
        self._tree = tree
        self._settings = settings
        self._signers = signers
        self.passed: list[leases.Passed] = []
        """Thresholds of budgets that were passed."""
        self._now_ns = now_ns

    def take(self, *, changing_over: bool = False) -> int:
        """Do it. `changing_over`: nothing is placed, and the tree is signed whether or not that is due."""
        conn, tenant_id = self._conn, self._tree.tenant_id
        due = self._now_ns - self._tree.checkpoint_ns >= self._settings.ledger_checkpoint_s * 1_000_000_000
        signs = changing_over or (due and bool(self._signers))
        # Each of these must be read before the next: what a later one says may only be more.
        nodes = sorted([*sequencing.nodes(conn), (control_entry.NODE, self._now_ns, None)])
        states = sequencing.epochs(conn, self._tree)
        alone = not changing_over and control_entries.alone(conn, tenant_id)
        taken = [] if changing_over else self._taken(signs)
        counts = {state.epoch: state.sequenced for state in states}
        placed = self._place(taken, counts)
        tree = self._grown(placed)
        marks = {
            state.epoch: max(state.published_ns, self._watermark_ns(state, alone))
            if counts[state.epoch] >= state.shipped
            else state.published_ns
            for state in states
        }
        tree, unsettled = self._settle(tree, states, counts)
        sequencing.put_sequenced(
            conn,
            tenant_id,
            [
                (state.epoch, counts[state.epoch], marks[state.epoch])
                for state in unsettled
                if counts[state.epoch] or marks[state.epoch]
            ],
        )
        if not signs:
            sequencing.put_tree(conn, msgspec.structs.replace(tree, signed=False))
            return len(placed)
        coverage = Coverage(
            tenant_id,
            self._now_ns,
            SettledHead(tree.settled_count, tree.settled_digest.hex()),
            tuple(
                OpenEpoch(
                    *(state.epoch, state.node, counts[state.epoch], marks[state.epoch], state.damaged),
                    key=_key(state),
                )
                for state in unsettled
            ),
            tuple(
                NodeSeen(node, registered_ns, msgspec.UNSET if retired_ns is None else retired_ns)
                for node, registered_ns, retired_ns in nodes
            ),
        )
        self._sign(tree, coverage)
        return len(placed)

    def _watermark_ns(self, state: sequencing.EpochState, alone: bool) -> int:
        """Up to when everything of an epoch is shipped. What the control plane writes itself is here as soon as it has
        happened: all of it, if nobody is writing and nothing waits."""
        if state.epoch != control_entry.EPOCH:
            return state.watermark_ns
        whole = alone and not control_entries.are_waiting(self._conn, self._tree.tenant_id)
        return self._now_ns if whole else state.published_ns

    def _taken(self, signs: bool) -> list[sequencing.Waiting]:
        """What is placed now."""
        first = self._joined() if signs else []
        return first + sequencing.inbox(self._conn, self._tree.tenant_id, self._settings.ledger_batch_entries)

    def _joined(self) -> list[sequencing.Waiting]:
        """What waited for a checkpoint, joined."""
        waiting = sequencing.inbox(self._conn, self._tree.tenant_id, LATER_MAX, later=True)
        out = []
        for which, leaf in control_entry.together(each.leaf for each in waiting):
            first, *more = (waiting[index] for index in which)
            out.append(sequencing.Waiting(first.id, first.epoch, None, leaf, tuple(each.id for each in more)))
        return out

    def _place(self, taken: list[sequencing.Waiting], counts: dict[str, int]) -> list[sequencing.Placed]:
        """Give entries their places, up to one of an epoch that was not known yet when `counts` were read."""
        placed: list[sequencing.Placed] = []
        leaves: list[Leaf] = []
        tenant_id, size = self._tree.tenant_id, self._tree.size
        for entry in taken:
            if entry.epoch not in counts:
                break
            n, data = entry.n, entry.leaf
            if entry.epoch == control_entry.EPOCH:
                n = counts[entry.epoch] + 1
                data = control_entry.numbered(data, n)
            if n != counts[entry.epoch] + 1:
                raise LedgerBroken(
                    f"entry {n} of epoch {entry.epoch} of {tenant_id} does not follow {counts[entry.epoch]}"
                )
            counts[entry.epoch] = n
            leaf = decode_leaf(data)
            if leaf.tree != tenant_id:
                raise LedgerBroken(f"entry {n} of epoch {entry.epoch} is of {leaf.tree}, not of {tenant_id}")
            called = leaf.kind in ("call", "refusal")
            placed.append(
                sequencing.Placed(
                    size + len(placed),
                    leaf.at,
                    leaf.kind,
                    leaf.request,
                    leaf.who.team,
                    leaf.who.principal,
                    leaf.who.subject,
                    leaf.where.name,
                    leaf.model,
                    leaf.result.state,
                    data,
                    leaf_hash(data),
                    bytes.fromhex(leaf.work.document) or None,
                    leaf.what.alias if called else None,
                    label_of(leaf) if called else None,
                )
            )
            leaves.append(leaf)
        if placed:
            self._sum(leaves)
            self._charge(taken[: len(placed)], leaves)
            link(self._conn, tenant_id, placed, leaves)
            sequencing.place(self._conn, tenant_id, taken[: len(placed)], placed)
        return placed

    def _sum(self, leaves: list[Leaf]) -> None:
        """Add entries that are about to be placed to the sums of their days."""
        conn, tenant_id = self._conn, self._tree.tenant_id
        zone = ZoneInfo(usage.time_zone(conn, tenant_id))
        calls = {leaf.request: leaf for leaf in leaves if leaf.kind == "call"}
        sums: dict[Key, Sums] = {}
        for leaf in leaves:
            if leaf.kind not in ("call", "refusal", "energy"):
                continue
            if leaf.kind == "energy":
                call = calls.get(leaf.request) or usage.call_leaf(conn, tenant_id, leaf.request)
                if call is None:
                    continue  # its call was refused its place: there is nothing that it would correct
                lines = [(key_of(call, zone), measured(call, leaf))]
            else:
                lines = lines_of(leaf, zone)
            for key, more in lines:
                sums[key] = sums.get(key, NOTHING).plus(more)
        usage.add(conn, tenant_id, sums)

    def _charge(self, taken: list[sequencing.Waiting], leaves: list[Leaf]) -> None:
        """Charge budgets what entries say that are about to be placed."""
        charges: dict[tuple[str, int, str], int] = {}
        for entry, leaf in zip(taken, leaves, strict=True):
            for each in leaf.budgets:
                key = (each.budget, each.start, entry.epoch)
                charges[key] = charges.get(key, 0) + each.charged
        self.passed = leases.charge(self._conn, self._tree.tenant_id, charges)

    def _grown(self, placed: list[sequencing.Placed]) -> sequencing.Tree:
        tree = self._tree
        compact = CompactRange.of(tree.size, tree.hashes)
        hashes = [entry.hash for entry in placed]
        for each in hashes:
            compact.append(each)
        sequencing.put_tiles(
            self._conn,
            tree.tenant_id,
            list(full_tiles(tree.size, hashes, lambda level, index: self._partial(level, index))),
        )
        return msgspec.structs.replace(tree, size=compact.size, hashes=list(compact.hashes))

    def _partial(self, level: int, index: int) -> bytes:
        """The hashes that were in a tile before this step, which it did not fill."""
        return sequencing.tile(self._conn, self._tree.tenant_id, level, index, self._tree.size)

    def _settle(
        self, tree: sequencing.Tree, states: list[sequencing.EpochState], counts: dict[str, int]
    ) -> tuple[sequencing.Tree, list[sequencing.EpochState]]:
        """Put epochs of which everything is in the tree into the chain, in their order."""
        ended = sorted((state for state in states if state.settled is not None), key=lambda state: state.settled or 0)
        lines, names = [], []
        settled, count, digest = tree.settled, tree.settled_count, tree.settled_digest
        for state in ended:
            if counts[state.epoch] < state.shipped:
                break
            line = _settled_line(state, counts[state.epoch]).encode()
            count += 1
            settled, digest = state.settled or 0, settled_digest(digest, line)
            lines.append((count, line))
            names.append(state.epoch)
        if lines:
            sequencing.put_settled(self._conn, tree.tenant_id, lines, names)
        tree = msgspec.structs.replace(tree, settled=settled, settled_count=count, settled_digest=digest)
        return tree, [state for state in states if state.epoch not in names]

    def _sign(self, tree: sequencing.Tree, coverage: Coverage) -> None:
        body = coverage.encode()
        root = CompactRange.of(tree.size, tree.hashes).root()
        origin = f"{self._settings.ledger_name}/{tree.tenant_id}"
        checkpoint = Checkpoint(origin, tree.size, root, self._now_ns, hashlib.sha256(body).digest())
        marks = [each.watermark for each in coverage.epochs] + [
            each.registered for each in coverage.nodes if each.retired is msgspec.UNSET
        ]
        sequencing.put_tree(self._conn, msgspec.structs.replace(tree, checkpoint_ns=self._now_ns, signed=True))
        sequencing.put_checkpoint(
            self._conn,
            tree.tenant_id,
            at_ns=self._now_ns,
            size=tree.size,
            note=sign_note(checkpoint.text(), self._signers),
            coverage=body,
            complete_ns=min(marks, default=0),
        )


def _settled_line(state: sequencing.EpochState, n: int) -> Settled:
    if state.lost_ns is None:
        how = "closed" if state.closed else "recovered"
        return Settled(state.epoch, state.node, how, n, state.damaged, key=_key(state))
    after_ns = max(state.watermark_ns, state.published_ns)
    return Settled(state.epoch, state.node, "lost", n, state.damaged, after_ns, state.lost_ns, key=_key(state))


def _key(state: sequencing.EpochState) -> str | msgspec.UnsetType:
    """The key of an epoch's receipts, as a coverage names it."""
    return msgspec.UNSET if state.receipt_key is None else state.receipt_key.hex()
