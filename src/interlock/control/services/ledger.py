"""Looks at the ledger: search, one call with its proof, an export. Each look is in the list of changes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from psycopg import Connection

from interlock.control.replay import Decided
from interlock.errors import Conflict, NotFound
from interlock.ledger import feedback as feedback_entries
from interlock.ledger.proof.coverage import Coverage
from interlock.ledger.proof.merkle import inclusion_proof
from interlock.ledger.sums import decode_leaf
from interlock.ledger.vault import SubjectKey
from interlock.settings import Settings
from interlock.storage import feedback, ledger_read, pruning, retention, rotations, shipping
from interlock.storage.ledger_keys import Erased, LedgerKeys
from interlock.storage.pool import Store
from interlock.types.feedback import NO_SCORE
from interlock.types.record import Intent, Record, Refusal

LEAVES_AT_ONCE = 500
CHECKPOINTS_AT_ONCE = 100
SENT_KEPT = 100_000
"""Contents that an export remembers to have sent."""


class EntryView(msgspec.Struct, frozen=True):
    """An entry: its place in the tree and its leaf, which says everything but contents."""

    position: int
    leaf: msgspec.Raw


class Proof(msgspec.Struct, frozen=True):
    """That a leaf is in the tree: `hashes` (hex) lead from it to the root that `checkpoint`, a signed note, names."""

    position: int
    hashes: tuple[str, ...]
    checkpoint: str


class FeedbackView(msgspec.Struct, frozen=True):
    """One feedback on a call. `position`: its entry's; `at`: Unix ns; `by`: id of who gave it, `principal` of who
    brought it. `counts`: the kinds of it that do; none when it is not the caller's, or came second. `score_micro`: in
    [0, 1e6]. Its texts are among the call's contents."""

    position: int
    at: int
    by: str
    principal: str
    counts: tuple[str, ...]
    thumb: str | None
    score_micro: int | None
    corrected: bool
    comment: bool
    reason: str | None


class CallView(msgspec.Struct, frozen=True):
    """Everything that the ledger has of one call. `contents` by role, where they were asked for and may be seen:
    text, or {"base64"} for what is not UTF-8; null: erased, or removed by
    retention. `notes`: sentences on what is not there, and why. `feedback`: what was said of its answer."""

    request: str
    entries: list[EntryView]
    proofs: list[Proof]
    contents: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    feedback: tuple[FeedbackView, ...] = ()


_NOT_KEPT = {
    "prompt_only": "the answer was not kept (recording: prompt_only)",
    "metadata": "neither prompt nor answer was kept (recording: metadata)",
}


def search(
    conn: Connection[Any], tenant_id: str, wanted: ledger_read.Filter, before: int, limit: int
) -> list[EntryView]:
    """Entries, newest first."""
    found = ledger_read.search(conn, tenant_id, wanted, before=before, limit=limit)
    return [EntryView(entry.position, msgspec.Raw(entry.leaf)) for entry in found]


def show(conn: Connection[Any], tenant_id: str, request: str, keys: LedgerKeys | None, settings: Settings) -> CallView:
    """One call with proofs under the newest checkpoint; with `keys` also its contents. Raises NotFound."""
    entries = ledger_read.of_request(conn, tenant_id, request)
    checkpoint = ledger_read.latest_checkpoint(conn, tenant_id)
    if not entries or checkpoint is None:
        raise NotFound(
            f"the ledger of this tenant has no call {request}; a call of the last seconds may still be on its way"
            + (", an old one was pruned" if pruning.latest(conn, tenant_id) is not None else ""),
            param="request",
        )
    read = ledger_read.node_reader(conn, tenant_id, checkpoint.size)
    return call_view(conn, tenant_id, entries, checkpoint, read, keys, settings)


def call_view(
    conn: Connection[Any],
    tenant_id: str,
    entries: list[ledger_read.Entry],
    checkpoint: ledger_read.StoredCheckpoint,
    read: Callable[[int, int], bytes],
    keys: LedgerKeys | None,
    settings: Settings,
) -> CallView:
    """The entries of one call with their proofs under a checkpoint, of whose tree `read` gives hashes."""
    proofs = [
        Proof(
            entry.position,
            tuple(each.hex() for each in inclusion_proof(entry.position, checkpoint.size, read)),
            checkpoint.note,
        )
        for entry in entries
        if entry.position < checkpoint.size
    ]
    views = [EntryView(entry.position, msgspec.Raw(entry.leaf)) for entry in entries]
    contents = None
    leaf = msgspec.json.decode(entries[0].leaf)
    if keys is not None:
        contents = _contents(conn, tenant_id, leaf, keys, settings)
        _add_feedback(conn, tenant_id, entries[1:], contents, keys, settings)
    notes, said = _notes(conn, tenant_id, leaf), _feedback(conn, tenant_id, entries)
    return CallView(entries[0].request, views, proofs, contents, notes, said)


def _feedback(conn: Connection[Any], tenant_id: str, entries: list[ledger_read.Entry]) -> tuple[FeedbackView, ...]:
    """What was said of a call, and what of it counts."""
    given = [entry for entry in entries if entry.kind == feedback_entries.KIND]
    counting = feedback.entries_that_count(conn, tenant_id, entries[0].request) if given else {}
    out = []
    for entry in given:
        leaf = decode_leaf(entry.leaf)
        said = leaf.feedback
        out.append(
            FeedbackView(
                *(entry.position, leaf.at, feedback_entries.giver_of(leaf), leaf.who.principal),
                tuple(sorted(counting.get(entry.position, ()))),
                said.thumb or None,
                said.score_micro if said.score_micro != NO_SCORE else None,
                said.corrected,
                said.comment,
                said.reason or None,
            )
        )
    return tuple(out)


def _add_feedback(
    conn: Connection[Any],
    tenant_id: str,
    entries: list[ledger_read.Entry],
    contents: dict[str, Any],
    keys: LedgerKeys,
    settings: Settings,
) -> None:
    """Put the texts of feedback on a call to its contents, as a list."""
    for entry in entries:
        if entry.kind == feedback_entries.KIND:
            texts = _contents(conn, tenant_id, msgspec.json.decode(entry.leaf), keys, settings)
            if texts:
                contents.setdefault(feedback_entries.CONTENT, []).extend(texts.values())


def _notes(conn: Connection[Any], tenant_id: str, leaf: dict[str, Any]) -> tuple[str, ...]:
    """What of a call is not there, and why."""
    gone = _gone(conn, tenant_id, leaf)
    kept = _not_kept(leaf)
    return tuple(words for words in (kept, gone and f"what was kept of it was {gone}") if words)


def _not_kept(leaf: dict[str, Any]) -> str | None:
    recording = leaf.get("what", {}).get("recording", "")
    return None if (leaf["kind"], recording) == ("refusal", "prompt_only") else _NOT_KEPT.get(recording)


def _gone(conn: Connection[Any], tenant_id: str, leaf: dict[str, Any]) -> str | None:
    """How what was kept of a call went: its record is no other's, and goes when nothing keeps it."""
    subject = key_name(leaf)
    names = [bytes.fromhex(each["id"]) for each in leaf["contents"] if each["role"] == "record"]
    key = shipping.key_row(conn, tenant_id, subject) if names else None
    if leaf.get("erased") or (key is not None and not key.wrapped):
        return "erased"
    if not names or ledger_read.content(conn, tenant_id, subject, names[0]) is not None:
        return None
    at = retention.removed_on(conn, tenant_id, subject, leaf["what"]["data_class"], retention.day_of(leaf["at"]))
    return "removed by retention" + (f" on {at:%Y-%m-%d}" if at is not None else "")


def key_name(leaf: dict[str, Any]) -> str:
    """The key that an entry's contents are under: its subject's, or, after an erasure, the one of that time."""
    who = leaf.get("who", {})
    return str(who.get("key") or who.get("subject", ""))


def _contents(
    conn: Connection[Any], tenant_id: str, leaf: dict[str, Any], keys: LedgerKeys, settings: Settings
) -> dict[str, Any]:
    subject = key_name(leaf)
    out: dict[str, Any] = {}
    if not leaf["contents"]:
        return out
    try:
        key = keys.named(conn, tenant_id, subject)
    except Erased:
        return {each["role"]: None for each in leaf["contents"]}

    def opened(name: bytes) -> Any:
        data = ledger_read.content(conn, tenant_id, subject, name)
        return None if data is None else _shown(key.open(name, data, bytes_max=settings.record_bytes_max))

    for each in leaf["contents"]:
        if "list" in each:
            items = ledger_read.list_items(conn, tenant_id, subject, bytes.fromhex(each["list"]))
            out[each["role"]] = [opened(name) for name in items] or None
        else:
            out[each["role"]] = opened(bytes.fromhex(each["id"]))
    return out


def _shown(plain: bytes) -> Any:
    try:
        return msgspec.json.decode(plain)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        pass
    try:
        return plain.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(plain).decode()}


def record_of(conn: Connection[Any], tenant_id: str, request: str, keys: LedgerKeys, settings: Settings) -> Decided:
    """What was recorded of a call's decisions. Raises NotFound: `features_erased` after an erasure,
    `features_removed` after retention."""
    return _decided(records_of(conn, tenant_id, request, keys, settings))


def records_of(
    conn: Connection[Any], tenant_id: str, request: str, keys: LedgerKeys, settings: Settings
) -> list[Record]:
    """What was recorded of a call, in its order: the decision first, then attempts and how they ended, without bodies.
    Raises as `record_of`."""
    for entry in ledger_read.of_request(conn, tenant_id, request):
        leaf = msgspec.json.decode(entry.leaf)
        if any(each["role"] == "record" for each in leaf["contents"]):
            records = _records_in(conn, tenant_id, leaf, keys, settings)
            if records is None:
                how = _gone(conn, tenant_id, leaf) or "erased"
                raise NotFound(
                    f"{request} cannot be decided again: features {how}",
                    code="features_erased" if how == "erased" else "features_removed",
                    param="request",
                )
            return records
    raise NotFound(f"the ledger of this tenant has no call {request}", param="request")


def record_in(
    conn: Connection[Any], tenant_id: str, leaf: dict[str, Any], keys: LedgerKeys, settings: Settings
) -> Decided | None:
    """What an entry's call was decided on; None when that was erased or removed."""
    records = _records_in(conn, tenant_id, leaf, keys, settings)
    return None if records is None else _decided(records)


def _decided(records: list[Record]) -> Decided:
    assert isinstance(records[0], (Intent, Refusal))  # noqa: S101 - the first of an entry's records
    return records[0]


def _records_in(
    conn: Connection[Any], tenant_id: str, leaf: dict[str, Any], keys: LedgerKeys, settings: Settings
) -> list[Record] | None:
    for each in leaf["contents"]:
        if each["role"] == "record":
            subject, name = key_name(leaf), bytes.fromhex(each["id"])
            try:
                key = keys.named(conn, tenant_id, subject)
            except Erased:
                return None
            data = ledger_read.content(conn, tenant_id, subject, name)
            if data is None:
                return None
            return _records.decode(key.open(name, data, bytes_max=settings.record_bytes_max))
    return None


_records = msgspec.json.Decoder(list[Record])


class Export:
    """The lines of an export of one tenant's entries admitted in [from, to): (kind, value), in the order of `lines`.

    With `payloads`, the keys of subjects, what was said is in it: encrypted, and open where admitted in the range. It
    reaches back to a checkpoint from before the range and forward to the first one under which the range is
    complete, or to the newest; who verifies it is told which.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        tenant_id: str,
        from_ns: int,
        to_ns: int,
        keys: list[str],
        payloads: LedgerKeys | None = None,
    ):
        """Raises NotFound when the tenant has no ledger yet."""
        self._store = store
        self._settings = settings
        self._tenant_id = tenant_id
        self._range = (from_ns, to_ns)
        self._keys = payloads
        self._sent: set[bytes] = set()
        with store.tenant(tenant_id) as conn:
            # A node's clock may be behind ours: what it admitted later may be named earlier.
            margin_ns = settings.ledger_clock_skew_ms * 1_000_000
            self._start = ledger_read.checkpoint_before(conn, tenant_id, from_ns - margin_ns)
            end = ledger_read.checkpoint_complete(conn, tenant_id, to_ns)
            end = end or ledger_read.latest_checkpoint(conn, tenant_id)
            if payloads is not None and end is not None:
                end = ledger_read.checkpoint_after_erasures(conn, tenant_id, end)
            pruned = pruning.latest(conn, tenant_id)
            start_size = self._start.size if self._start is not None else 0
            self._pruned = pruned if pruned is not None and start_size < pruned.to_position else None
            if self._pruned is not None:
                self._start = ledger_read.checkpoint_at(conn, tenant_id, self._pruned.start_at_ns)
                if end is not None and end.size < self._pruned.to_position:
                    end = ledger_read.checkpoint_from_size(conn, tenant_id, self._pruned.to_position)
        if end is None:
            raise NotFound("this tenant has no ledger yet", param="tenant")
        self._end = end
        self.manifest = {
            "v": 1,
            "tree": tenant_id,
            "cell": settings.ledger_name,
            "from": from_ns,
            "to": to_ns,
            "start_size": self._start.size if self._start is not None else 0,
            "end_size": end.size,
            "made_at": end.at_ns,
            "payloads": payloads is not None,
            "keys": keys,
        }
        if self._pruned is not None:
            self.manifest["pruned"] = self._pruned.to_position
        if payloads is not None:
            self.manifest["opened"] = 0  # whoever writes the folder counts

    def lines(self) -> Iterator[tuple[str, Any]]:
        """("start", {...}), where the first entries were pruned ("pruned", {...}), ("rotation", {...}),
        ("settled", line), ("checkpoint", {...}), ("entry", leaf), with payloads ("content", {...}) and ("list", {...}),
        ("end", {}). Raises Conflict when entries are pruned
        meanwhile."""
        yield "start", self._start_state()
        if self._pruned is not None:
            yield "pruned", {"note": self._pruned.note, "state": self._pruned.state.decode()}
        yield from self._rotations()
        yield from self._settled()
        yield from self._checkpoints()
        size = self._start.size if self._start is not None else 0
        size = size if self._pruned is None else self._pruned.to_position
        while size < self._end.size:
            until = min(size + LEAVES_AT_ONCE, self._end.size)
            with self._store.tenant(self._tenant_id) as conn:
                found = ledger_read.leaves(conn, self._tenant_id, size, until)
            if len(found) != until - size:
                raise Conflict(f"entries from {size} on were pruned meanwhile; export again", code="pruned")
            for leaf in found:
                yield "entry", leaf.decode()
            if self._keys is not None:
                for leaf in found:
                    yield from self._contents_of(msgspec.json.decode(leaf), self._keys)
            size = until
        yield "end", {}

    def _contents_of(self, leaf: dict[str, Any], keys: LedgerKeys) -> Iterator[tuple[str, Any]]:
        """The ciphertexts and lists that an entry names, and, of one admitted in the range, what opens them."""
        references = leaf.get("contents", ())
        if not references:
            return
        subject, out = key_name(leaf), list[tuple[str, Any]]()
        with self._store.tenant(self._tenant_id) as conn:
            try:
                key = keys.named(conn, self._tenant_id, subject)
            except Erased:
                return
            opened = self._range[0] <= leaf["at"] < self._range[1]
            for each in references:
                if "list" not in each:
                    out += self._content(conn, key, subject, bytes.fromhex(each["id"]), opened)
                    continue
                items = ledger_read.list_items(conn, self._tenant_id, subject, bytes.fromhex(each["list"]))
                if items:
                    out.append(("list", {"list": each["list"], "items": [item.hex() for item in items]}))
                for item in items:
                    out += self._content(conn, key, subject, item, opened)
        yield from out

    def _content(
        self, conn: Connection[Any], key: SubjectKey, subject: str, name: bytes, opened: bool
    ) -> list[tuple[str, Any]]:
        mark = name + bytes([opened])
        if mark in self._sent:
            return []
        data = ledger_read.content(conn, self._tenant_id, subject, name)
        if data is None:
            return []
        if len(self._sent) >= SENT_KEPT:
            self._sent.clear()  # what is sent twice is written once
        self._sent.add(mark)
        value: dict[str, Any] = {"id": name.hex(), "data": base64.b64encode(data).decode()}
        if opened:
            plain, salt = key.opened(name, data, bytes_max=self._settings.record_bytes_max)
            if salt is not None:
                value |= {"salt": salt.hex(), "plain": base64.b64encode(plain).decode()}
        return [("content", value)]

    def _start_state(self) -> dict[str, Any]:
        start = self._start
        if start is None:
            return {"size": 0, "hashes": [], "counts": {}}
        with self._store.tenant(self._tenant_id) as conn:
            read = ledger_read.node_reader(conn, self._tenant_id, start.size)
            hashes = [read(level, index).hex() for level, index in _subtrees(start.size)]
        counts = {each.epoch: each.n for each in Coverage.decode(start.coverage).epochs}
        return {"size": start.size, "hashes": hashes, "counts": counts}

    def _rotations(self) -> Iterator[tuple[str, Any]]:
        with self._store.tenant(self._tenant_id) as conn:
            for each in rotations.everything(conn):
                head = ledger_read.checkpoint_at(conn, self._tenant_id, each.at_ns)
                yield "rotation", {"statement": each.statement, "head": None if head is None else head.note}

    def _settled(self) -> Iterator[tuple[str, Any]]:
        after = Coverage.decode(self._start.coverage).settled.count if self._start is not None else 0
        through = Coverage.decode(self._end.coverage).settled.count
        while after < through:
            until = min(after + LEAVES_AT_ONCE, through)
            with self._store.tenant(self._tenant_id) as conn:
                found = ledger_read.settled_lines(conn, self._tenant_id, after, until)
            for line in found:
                yield "settled", line.decode()
            after = until

    def _checkpoints(self) -> Iterator[tuple[str, Any]]:
        """INVARIANT: those at the start and at the end are the ones that all else is read for. They may be gone from
        the database: of one size the first and the last are kept, and soon another is the last."""
        at_ns = -1
        if self._start is not None:
            yield "checkpoint", _told(self._start)
            at_ns = self._start.at_ns
        while True:
            with self._store.tenant(self._tenant_id) as conn:
                found = ledger_read.checkpoints(
                    conn, self._tenant_id, at_ns + 1, self._end.at_ns - 1, CHECKPOINTS_AT_ONCE
                )
            for each in found:
                yield "checkpoint", _told(each)
            if len(found) < CHECKPOINTS_AT_ONCE:
                break
            at_ns = found[-1].at_ns
        if self._start is None or self._start.at_ns < self._end.at_ns:
            yield "checkpoint", _told(self._end)


def _told(checkpoint: ledger_read.StoredCheckpoint) -> dict[str, str]:
    """A checkpoint as it is sent."""
    return {"note": checkpoint.note, "coverage": checkpoint.coverage.decode()}


def _subtrees(size: int) -> Iterator[tuple[int, int]]:
    """(level, index) of the complete subtrees that a tree of `size` leaves consists of, largest first."""
    start = 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            yield level, start >> level
            start += 1 << level
