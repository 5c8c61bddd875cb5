"""Pruning: the first entries of a tree lose their text, a signed statement says so, and their hashes stay.

Whole tiles only, so that every hash that a proof needs is in a complete one. Only what a checkpoint has signed, what is
old enough, and nothing from the first entry on that a legal hold is on. The statement and the deletion are one
transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from psycopg import Connection
from psycopg.rows import class_row

from interlock.errors import InterlockError
from interlock.ledger.proof.coverage import Coverage
from interlock.ledger.proof.merkle import CompactRange
from interlock.ledger.proof.note import Signer, sign_note
from interlock.ledger.proof.pruned import Pruned, PrunedState, spans
from interlock.ledger.proof.tiles import TILE
from interlock.storage import feedback, holds, ledger_read, retention
from interlock.storage.ledger_keys import GENERATION


class PruningBroken(InterlockError):
    """The tree does not hold what it must: nothing is pruned."""

    code, status = "ledger_broken", 500


class StoredPruned(msgspec.Struct, frozen=True):
    """The entries [0, to_position) have no text any more. `start_at_ns`: when the last checkpoint among them was made,
    0 when there is none. `note`, `state`: the statement and the bytes of its state."""

    to_position: int
    start_at_ns: int
    note: str
    state: bytes


class _Numbered(msgspec.Struct):
    epoch: str
    n: int


class Terms(NamedTuple):
    """What to prune, and who says so. `cut_ns`: entries admitted before it are old enough. `at_ns`: now."""

    cut_ns: int
    at_ns: int
    tiles: int
    origin: str
    reason: str
    signers: Sequence[Signer]


_leaf = msgspec.json.Decoder(_Numbered)


def latest(conn: Connection[Any], tenant_id: str) -> StoredPruned | None:
    """What was pruned of a tenant's tree; None: nothing."""
    with conn.cursor(row_factory=class_row(StoredPruned)) as cursor:
        return cursor.execute(
            "SELECT to_position, start_at_ns, note, state FROM interlock.ledger_pruned WHERE tenant_id = %s",
            (tenant_id,),
        ).fetchone()


def prune(conn: Connection[Any], tenant_id: str, terms: Terms) -> int:
    """Prune at most `terms.tiles` tiles in the name of the tenant; returns how many entries. Raises PruningBroken.

    Call it in a transaction of its own, until it returns 0.
    """
    row = conn.execute(
        "SELECT pg_try_advisory_xact_lock(%s, hashtext(%s))", (retention.SWEEP_LOCK_SPACE, tenant_id)
    ).fetchone()
    if row is None or not row[0]:
        return 0
    holds.alone(conn, tenant_id)
    held = holds.held(conn, tenant_id)
    signed = ledger_read.latest_checkpoint(conn, tenant_id)
    if holds.EVERYTHING in held or signed is None:
        return 0
    before = latest(conn, tenant_id)
    done = before.to_position if before is not None else 0
    end = min(done + terms.tiles * TILE, signed.size // TILE * TILE)
    to = _old(conn, tenant_id, done, end, terms.cut_ns, held)
    if to <= done:
        return 0
    start_at_ns, state = _state(conn, tenant_id, before, to, signed.size)
    tree = CompactRange()
    read = ledger_read.node_reader(conn, tenant_id, signed.size)
    tree.add((level, read(level, index)) for level, index in spans(0, to))
    digest = hashlib.sha256(state).digest()
    said = Pruned(terms.origin, to, tree.root(), terms.at_ns, digest, terms.reason)
    gone = conn.execute(
        "DELETE FROM interlock.ledger_entries WHERE tenant_id = %s AND position >= %s AND position < %s",
        (tenant_id, done, to),
    ).rowcount
    feedback.prune(conn, tenant_id, to)
    if gone != to - done:
        raise PruningBroken(f"the tree of {tenant_id} has {gone} entries in [{done}, {to})")
    conn.execute(
        "INSERT INTO interlock.ledger_pruned AS t (tenant_id, to_position, start_at_ns, note, state)"
        " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (tenant_id) DO UPDATE SET to_position = excluded.to_position,"
        " start_at_ns = excluded.start_at_ns, note = excluded.note, state = excluded.state",
        (tenant_id, to, start_at_ns, sign_note(said.text(), terms.signers), state),
    )
    return gone


def _old(conn: Connection[Any], tenant_id: str, done: int, end: int, cut_ns: int, held: list[str]) -> int:
    """Where the whole tiles end, from `done` on and up to `end`, of which every entry may go."""
    row = conn.execute(
        "SELECT min(position) FROM interlock.ledger_entries WHERE tenant_id = %s AND position >= %s AND position < %s"
        " AND (at_ns >= %s OR split_part(subject, %s, 1) = ANY (%s))",
        (tenant_id, done, end, cut_ns, GENERATION, held),
    ).fetchone()
    kept = end if row is None or row[0] is None else int(row[0])
    return kept // TILE * TILE


def _state(conn: Connection[Any], tenant_id: str, before: StoredPruned | None, to: int, size: int) -> tuple[int, bytes]:
    """What a verifier needs behind the pruned range: (when the last checkpoint in it was made, the state's bytes)."""
    checkpoint = ledger_read.checkpoint_of_size(conn, tenant_id, to)
    start, start_at_ns = (checkpoint.size, checkpoint.at_ns) if checkpoint is not None else (0, 0)
    done = before.to_position if before is not None else 0
    if before is not None and start < done:
        counts = dict(PrunedState.decode(before.state).counts)
    else:
        done = start
        epochs = Coverage.decode(checkpoint.coverage).epochs if checkpoint is not None else ()
        counts = {each.epoch: each.n for each in epochs}
    for leaf in ledger_read.leaves(conn, tenant_id, done, to):
        numbered = _leaf.decode(leaf)
        counts[numbered.epoch] = numbered.n
    read = ledger_read.node_reader(conn, tenant_id, size)
    hashes = [read(level, index).hex() for level, index in spans(start, to)]
    return start_at_ns, PrunedState(tenant_id, start, to, hashes, counts).encode()
