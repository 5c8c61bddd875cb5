"""A small log that signs checkpoints and writes exports, honestly or not: what the tests of the verifier share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from interlock.ledger.proof.checkpoint import Checkpoint
from interlock.ledger.proof.coverage import (
    SETTLED_START,
    Coverage,
    NodeSeen,
    OpenEpoch,
    Settled,
    SettledHead,
    settled_digest,
)
from interlock.ledger.proof.entry import encode_leaf
from interlock.ledger.proof.findings import Report
from interlock.ledger.proof.folder import ExportWriter, Manifest
from interlock.ledger.proof.merkle import CompactRange, leaf_hash, root_of, subtrees
from interlock.ledger.proof.note import Ed25519Signer, Signer, VerifierKey, sign_note
from interlock.ledger.proof.pruned import Pruned, PrunedState
from interlock.ledger.proof.rotation import Rotation
from interlock.ledger.proof.verify import verify_export

SIGNER = Ed25519Signer("cell.example/log", bytes(range(32)))
OTHER = Ed25519Signer("cell.example/log-2", bytes(range(1, 33)))
KEYS = [SIGNER.verifier_key]
ORIGIN = "cell.example/ten_abc"
TREE = "ten_abc"
E1, E2, E3, E4 = (f"01hzzzzzzzaaaaa{each}" for each in "1234")
FROM, TO = 1_000, 2_000


class Signed(NamedTuple):
    """A checkpoint, and what an export needs to start or end there."""

    note: str
    coverage: bytes
    size: int
    at: int
    hashes: list[bytes]
    counts: dict[str, int]
    settled: int


class Log:
    """One tree of a log. Its fields may be changed to make it lie."""

    def __init__(self, *, origin: str = ORIGIN, tree: str = TREE, signers: Sequence[Signer] = (SIGNER,)) -> None:
        self.origin, self.tree, self.signers = origin, tree, list(signers)
        self.leaves: list[bytes] = []
        self.range = CompactRange()
        self.open: dict[str, OpenEpoch] = {}
        self.next: dict[str, int] = {}
        self.nodes: dict[str, int] = {}
        self.retired: dict[str, int] = {}
        self.lines: list[bytes] = []
        self.digest = SETTLED_START
        self.checkpoints: list[Signed] = []
        self.contents: dict[str, bytes] = {}
        self.lists: dict[str, list[str]] = {}
        self.rotations: list[tuple[str, str | None]] = []
        self.keys: dict[str, str] = {}
        """Of the receipts of epochs that are begun."""

    def begin(self, epoch: str, node: str, watermark: int, *, damaged: bool = False) -> None:
        self.open[epoch] = OpenEpoch(epoch, node, 0, watermark, damaged, self.keys.get(epoch, UNSET))

    def entry(self, epoch: str, at: int, **more: Any) -> None:
        n = self.next.get(epoch, 0) + 1
        value = {"v": 1, "tree": self.tree, "epoch": epoch, "n": n, "kind": "call", "at": at, **more}
        self.next[epoch] = n
        self.append(encode_leaf(value))
        if epoch in self.open:
            old = self.open[epoch]
            self.open[epoch] = OpenEpoch(epoch, old.node, n, old.watermark, old.damaged, old.key)

    def append(self, leaf: bytes) -> None:
        self.leaves.append(leaf)
        self.range.append(leaf_hash(leaf))

    def content(self, text: str) -> dict[str, Any]:
        """Keep a ciphertext; the reference to it."""
        data = text.encode()
        id_ = hashlib.sha256(b"id" + data).hexdigest()[:32]
        self.contents[id_] = data
        return {"role": "prompt", "sha256": hashlib.sha256(data).hexdigest(), "id": id_, "bytes": len(data)}

    def list(self, *texts: str) -> dict[str, Any]:
        """Keep a list of ciphertexts; the reference to it."""
        references = [self.content(text) for text in texts]
        digest = bytes(32)
        for each in references:
            digest = hashlib.sha256(digest + bytes.fromhex(each["sha256"])).digest()
        id_ = hashlib.sha256(b"list" + digest).hexdigest()[:32]
        self.lists[id_] = [each["id"] for each in references]
        return {"role": "messages", "list": id_, "digest": digest.hex(), "count": len(texts)}

    def settle(
        self,
        epoch: str,
        *,
        state: str = "closed",
        damaged: bool = False,
        n: int | None = None,
        lost: tuple[int, int] | None = None,
    ) -> None:
        old = self.open.pop(epoch)
        n = old.n if n is None else n
        after, until = lost or (UNSET, UNSET)
        line = Settled(epoch, old.node, "lost" if lost else state, n, damaged, after, until, old.key).encode()
        self.lines.append(line)
        self.digest = settled_digest(self.digest, line)

    def watermarks(self, at: int) -> None:
        """Every epoch and node is there until `at`."""
        for epoch, old in self.open.items():
            self.open[epoch] = OpenEpoch(epoch, old.node, old.n, at, old.damaged, old.key)
        self.nodes = {node: ns if node in self.retired else at for node, ns in self.nodes.items()}

    def checkpoint(self, at: int, **change: Any) -> Signed:
        """Sign the tree as it is. `change` overwrites fields of the coverage."""
        fields: dict[str, Any] = {
            "tree": self.tree,
            "at": at,
            "settled": SettledHead(count=len(self.lines), digest=self.digest.hex()),
            "epochs": tuple(self.open[epoch] for epoch in sorted(self.open)),
            "nodes": tuple(
                NodeSeen(node, self.nodes[node], self.retired.get(node, UNSET)) for node in sorted(self.nodes)
            ),
        }
        coverage = Coverage(**{**fields, **change}).encode()
        made = Checkpoint(
            origin=self.origin,
            size=self.range.size,
            root=self.range.root(),
            at=at,
            coverage=hashlib.sha256(coverage).digest(),
        )
        counts = {epoch: each.n for epoch, each in self.open.items()}
        note = sign_note(made.text(), self.signers)
        signed = Signed(note, coverage, made.size, at, list(self.range.hashes), counts, len(self.lines))
        self.checkpoints.append(signed)
        return signed

    def rotate(self, new: Ed25519Signer, at: int) -> None:
        """Another key signs from now on; the change is signed by both."""
        (old,) = self.signers
        assert isinstance(old, Ed25519Signer)
        self.signers = [old, new]
        head = self.checkpoint(at)
        self.rotations.append((statement(old, new, at, self.origin), head.note))
        self.signers = [new]

    def export(
        self,
        path: Path,
        *,
        start: int | None = 0,
        end: int = -1,
        from_ns: int = FROM,
        to_ns: int = TO,
        payloads: bool = False,
        pruned: int | None = None,
        state: dict[str, Any] | None = None,
        statement: dict[str, Any] | None = None,
    ) -> Path:
        """Write an export from checkpoint number `start` (None: from the empty tree) up to number `end`.

        `pruned`: the entries before this one have lost their text; `state` and `statement` overwrite what says so.
        """
        last = self.checkpoints[end]
        first = self.checkpoints[start] if start is not None else None
        low = first.size if first else 0
        manifest = Manifest(
            tree=self.tree,
            cell="cell.example",
            from_ns=from_ns,
            to_ns=to_ns,
            start_size=low,
            end_size=last.size,
            made_at=last.at,
            payloads=payloads,
            pruned=pruned,
        )
        with ExportWriter(path, manifest, [KEYS[0].text]) as writer:
            writer.start(low, first.hashes if first else [], first.counts if first else {})
            for each in self.checkpoints[start or 0 : None if end == -1 else end + 1]:
                writer.checkpoint(each.note, each.coverage)
            if pruned is not None:
                writer.pruned(*self.pruned(low, pruned, first.counts if first else {}, state or {}, statement or {}))
            for leaf in self.leaves[low if pruned is None else pruned : last.size]:
                writer.entry(leaf)
            for rotation, head in self.rotations:
                writer.rotation(rotation, head)
            for line in self.lines[first.settled if first else 0 : last.settled]:
                writer.settled(line)
            if payloads:
                for id_, data in self.contents.items():
                    writer.content(id_, data)
                for id_, items in self.lists.items():
                    writer.list(id_, items)
        return path

    def pruned(
        self, start: int, to: int, counts: dict[str, int], state: dict[str, Any], statement: dict[str, Any]
    ) -> tuple[str, bytes]:
        """The statement that the first `to` entries lost their text, and its state."""
        counts = dict(counts)
        for leaf in self.leaves[start:to]:
            value = msgspec.json.decode(leaf)
            counts[value["epoch"]] = value["n"]
        hashes = [leaf_hash(each) for each in self.leaves[:to]]
        roots = [each.hex() for _, each in subtrees(start, hashes[start:])]
        fields = {"tree": self.tree, "start": start, "to": to, "hashes": roots, "counts": counts, **state}
        data = PrunedState(**fields).encode()
        said = {
            "origin": self.origin, "to": to, "root": root_of(hashes), "at": 3_000,
            "state": hashlib.sha256(data).digest(), "reason": "retention of entries: 1 day", **statement,
        }  # fmt: skip
        return sign_note(Pruned(**said).text(), self.signers), data


def statement(old: Ed25519Signer, new: Ed25519Signer, at: int, origin: str = ORIGIN) -> str:
    """The note of a change of keys."""
    ledger = origin.rpartition("/")[0]
    return sign_note(Rotation(ledger, old.verifier_key, new.verifier_key, at).text(), [old, new])


def grown(*, payloads: bool = False) -> Log:
    """A log with three nodes and four epochs: one settled before the range, one in it, one recovered, one still open.

    Checkpoints: 0 before anything, 1 at the start of the range, 2 and 3 in it, 4 and 5 after its end.
    """
    log = Log()
    log.nodes = {"node_a": 100, "node_b": 100, "node_c": 100}
    log.begin(E1, "node_a", 100)
    log.checkpoint(150)
    log.entry(E1, 200)
    log.entry(E1, 300)
    log.begin(E2, "node_b", 400)
    log.entry(E2, 450)
    log.settle(E1)
    log.watermarks(900)
    log.checkpoint(950)
    for step in range(5):
        log.entry(E2, 1_000 + step, **_said(log, step, payloads))
    log.begin(E3, "node_c", 1_000)
    log.watermarks(1_100)
    log.checkpoint(1_150)
    for step in range(6):
        log.entry(E3 if step % 2 else E2, 1_200 + 50 * step, **_said(log, 10 + step, payloads))
    log.settle(E2, state="recovered")
    log.begin(E4, "node_a", 1_500)
    log.watermarks(1_600)
    log.checkpoint(1_650)
    for step in range(4):
        log.entry(E4, 1_700 + 150 * step, **_said(log, 20 + step, payloads))
    log.watermarks(2_100)
    log.checkpoint(2_200)
    log.settle(E3)
    log.entry(E4, 2_250)
    log.watermarks(2_300)
    log.checkpoint(2_400)
    return log


def _said(log: Log, number: int, payloads: bool) -> dict[str, Any]:
    more: dict[str, Any] = {"request": f"req_{number}", "who": {"subject": f"user_{number % 3}"}}
    if payloads:
        more["contents"] = [log.content(f"answer {number}"), log.list(f"system {number}", f"hello {number}", "common")]
    return more


def check(path: Path, **how: Any) -> Report:
    keys: Sequence[VerifierKey] = how.pop("keys", KEYS)
    return verify_export(path, keys, **how)
