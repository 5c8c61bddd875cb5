"""The list of changes held against the ledger: whether each row is as it was when it was written, and none is missing.

The tree is what is trusted here: its newest checkpoint must bear a signature of one of `keys`, entries must lie under
its root, and the checkpoint says how many entries of changes there are. So whoever can write to the database, but not
sign, cannot change a row unnoticed. (That the whole database was set back is noticed by a checkpoint that somebody
kept: see `interlock ledger verify --seen`.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from psycopg import Connection

from interlock.control.services.base import Tools
from interlock.ledger.control_entry import EPOCH, Row
from interlock.ledger.proof import checkpoint as checkpoints
from interlock.ledger.proof.coverage import Coverage
from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.merkle import inclusion_proof, leaf_hash, verify_inclusion
from interlock.ledger.proof.note import Verifier, open_note
from interlock.ledger.proof.pruned import PrunedState
from interlock.ledger.proof.pruned import parse as parse_pruned
from interlock.storage import changes, ledger_read, pruning
from interlock.storage.pool import Store

AT_ONCE = 500
PROBLEMS_MAX = 100


class AuditView(msgspec.Struct, frozen=True):
    """What was found. `rows` are as their entries say; `waiting` have no place in the tree yet; nothing speaks for the
    `older`, which are from before changes were entries, or whose entries were pruned. `size`: entries under the newest
    checkpoint, all kinds.

    `problems`: one sentence each, at most 100; none: every row is as it was written.
    """

    tree: str
    size: int
    rows: int
    waiting: int
    older: int
    problems: list[str]


class _Listed(msgspec.Struct, frozen=True):
    id: int
    digest: str


class _Leaf(msgspec.Struct, frozen=True):
    """Of a leaf of the control plane's epoch."""

    epoch: str = ""
    n: int = 0
    kind: str = ""
    rows: tuple[_Listed, ...] = ()


_decode_leaf = msgspec.json.Decoder(_Leaf).decode


def audit(store: Store, tools: Tools, tree: str, keys: Sequence[Verifier]) -> AuditView:
    """Compare the changes that belong into a tree with it. Reads in many short transactions. Raises StoreError."""
    return _Audit(store, f"{tools.settings.ledger_name}/{tree}", tree, keys).run()


class _Audit:
    def __init__(self, store: Store, origin: str, tree: str, keys: Sequence[Verifier]) -> None:
        self._store = store
        self._origin = origin
        self._tree = tree
        self._keys = keys
        self._problems: list[str] = []
        self._root = b""
        self._size = 0
        self._wanted = 0
        self._n = 0
        self._signed_n = 0
        self._next = 0
        self._covered: set[int] = set()
        self._good = 0
        self._pruned = False

    def run(self) -> AuditView:
        self._checkpoint()
        self._entries()
        older, without = self._rows()
        with self._store.platform() as conn:
            waiting = changes.waiting_ids(conn, self._tree)
        if without - waiting:
            self._entries()  # some were placed meanwhile
        for id_ in sorted(without - waiting - self._covered):
            self._say(f"change {id_} is in no entry of the ledger")
        if self._signed_n != self._wanted:
            self._say(f"the newest checkpoint counts {self._wanted} changes and erasures, {self._signed_n} are there")
        waiting &= without
        return AuditView(self._tree, self._size, self._good, len(waiting), older, self._problems)

    def _say(self, problem: str) -> None:
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(problem)

    def _checkpoint(self) -> None:
        """The newest checkpoint: what it signs is what the rest is held against."""
        with self._store.platform() as conn:
            found = ledger_read.latest_checkpoint(conn, self._tree)
        if found is None:
            return
        try:
            signed = checkpoints.parse(open_note(found.note, self._keys))
            if signed.origin != self._origin:
                raise ProofError(f"is of {signed.origin}")
            if hashlib.sha256(found.coverage).digest() != signed.coverage:
                raise ProofError("its coverage is not the one that was signed")
            coverage = Coverage.decode(found.coverage)
        except ProofError as e:
            self._say(f"the newest checkpoint cannot be trusted: {e}")
            return
        self._size, self._root = signed.size, signed.root
        self._begin_behind_pruned()
        self._wanted = next((each.n for each in coverage.epochs if each.epoch == EPOCH), 0)

    def _begin_behind_pruned(self) -> None:
        """Entries that retention has pruned are counted by what was signed then."""
        with self._store.platform() as conn:
            found = pruning.latest(conn, self._tree)
        if found is None:
            return
        try:
            said = parse_pruned(open_note(found.note, self._keys))
            if said.origin != self._origin or hashlib.sha256(found.state).digest() != said.state:
                raise ProofError("is not of this tree")
            self._n = self._signed_n = dict(PrunedState.decode(found.state).counts).get(EPOCH, 0)
            self._pruned = self._n > 0
        except ProofError as e:
            self._say(f"the statement of what was pruned cannot be trusted: {e}")

    def _entries(self) -> None:
        """Entries from where the last look ended."""
        while True:
            with self._store.platform() as conn:
                found = ledger_read.control_leaves(conn, self._tree, self._next, AT_ONCE)
                node = ledger_read.node_reader(conn, self._tree, self._size)
                for position, data in found:
                    self._entry(conn, node, position, data)
                    self._next = position + 1
            if len(found) < AT_ONCE:
                return

    def _entry(self, conn: Connection[Any], node: Callable[[int, int], bytes], position: int, data: bytes) -> None:
        try:
            leaf = _decode_leaf(data)
        except msgspec.MsgspecError:
            leaf = _Leaf()
        if position < self._size:
            self._signed_n += 1
            try:
                proof = inclusion_proof(position, self._size, node)
                included = verify_inclusion(leaf_hash(data), position, self._size, proof, self._root)
            except ProofError:
                included = False
            if not included:
                self._say(f"entry #{position} of the ledger is not the one that was signed")
        if leaf.epoch != EPOCH or leaf.n != self._n + 1:
            self._say(f"entry #{position} of the ledger does not follow number {self._n} of the entries of changes")
        self._n = leaf.n
        rows = changes.rows(conn, [row.id for row in leaf.rows])
        for listed in leaf.rows:
            self._compare(position, listed, rows.get(listed.id))

    def _compare(self, position: int, listed: _Listed, row: Row | None) -> None:
        if listed.id in self._covered:
            self._say(f"change {listed.id} is in a second entry of the ledger, #{position}")
        self._covered.add(listed.id)
        if row is None:
            self._say(f"change {listed.id} is gone: entry #{position} of the ledger speaks of it")
        elif (row.tenant_id or changes.PLATFORM_TREE) != self._tree or row.digest() != listed.digest:
            self._say(f"change {listed.id} is not as it was when it was made: entry #{position} of the ledger")
        else:
            self._good += 1

    def _rows(self) -> tuple[int, set[int]]:
        """(rows from before changes were entries, rows that no entry seen so far speaks of)."""
        after, older, without = -(1 << 62), 0, set[int]()
        first = min(self._covered, default=None)
        while True:
            with self._store.platform() as conn:
                found = changes.ids_of(conn, self._tree, after, AT_ONCE)
            for id_, has_entry in found:
                after = id_
                if has_entry and id_ not in self._covered:
                    if self._pruned and (first is None or id_ < first):
                        older += 1
                    else:
                        without.add(id_)
                elif not has_entry and (first is None or id_ < first):
                    older += 1
                elif not has_entry and id_ not in self._covered:
                    self._say(f"change {id_} is in no entry of the ledger, though earlier ones are")
            if len(found) < AT_ONCE:
                return older, without
