"""Ship one epoch: read its log, fold it into entries, encrypt, and bring batch by batch to the database.

What is read is made durable before it is shipped, so that the ledger never knows more than the log would after a loss
of power. The place of each entry follows from the log alone, and how far an epoch is shipped is in the database with
what was shipped: a shipper that dies anywhere goes on where the database says.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg import Connection

from interlock.errors import Conflict, LogCorrupt
from interlock.ledger.entry import Draft, call_entry, encode_leaf, energy_entry, subject_of
from interlock.ledger.epoch import EpochReader
from interlock.ledger.feedback import content_of, feedback_entry
from interlock.ledger.files import Files
from interlock.ledger.fold import EpochFold, FindCall, Folded, Unreadable
from interlock.ledger.folder import CLOSED, RECOVERED, segment_path, segments
from interlock.ledger.reader import CallRecords, interrupted_of
from interlock.ledger.recovery import make_durable
from interlock.ledger.segment import Frame
from interlock.settings import Settings
from interlock.storage import shipping
from interlock.storage.ledger_keys import Held, LedgerKeys
from interlock.storage.pool import Store
from interlock.types.record import EnergyMeasured, EpochOpen, Feedback, request_id

log = logging.getLogger("interlock.gateway.shipper")

NS_PER_DAY = 86_400_000_000_000
RECEIPT_KEY_BYTES = 32
TENANTS_KEPT = 65_536
"""Ended calls of which the tenant is remembered, for the measurements of their energy that come later."""


@dataclass(slots=True)
class _Batch:
    entries: list[shipping.InboxEntry] = field(default_factory=list)
    contents: shipping.Uses = field(default_factory=shipping.Uses)
    lists: shipping.Uses = field(default_factory=shipping.Uses)
    bytes: int = 0


class EpochShipper:
    """One epoch on its way. `ship` brings a batch; `done` when the database has all that its log will ever hold."""

    def __init__(
        self,
        folder: Path,
        state: shipping.Epoch,
        counts: dict[str, int],
        keys: LedgerKeys,
        settings: Settings,
        find: FindCall,
        files: Files | None = None,
    ) -> None:
        self.epoch = state.epoch
        self.done = state.whole
        self.damaged = state.damaged
        self.shipped_seq = state.shipped_seq
        self.resume_segment = state.resume_segment
        """Segments before this one hold nothing that is needed again."""
        self._folder = folder
        self._read_size = (-2, 0)
        self._watermark_ns = state.watermark_ns
        self._calls_through = 0
        self._counts = counts
        self._keys = keys
        self._settings = settings
        self._find = find
        self._files = files or Files()
        self._fold = EpochFold(state.epoch, find, floor_ns=state.floor_ns, bytes_max=settings.ledger_open_bytes_max)
        self._reader = EpochReader(folder, state.epoch, from_segment=state.resume_segment)
        self._tenants: OrderedDict[int, str] = OrderedDict()
        self._receipt_key: bytes | None = None
        self._segment = state.resume_segment

    def close(self) -> None:
        """Release the open segment."""
        self._reader.close()

    def ship(self, store: Store) -> bool:
        """Bring what is new, at most one batch. Returns whether there may be more at once.

        Raises StoreError when the database is away, Conflict (`overtaken`, `erased`), OSError. After an error this
        object is of no use any more: make a new one from what the database says.
        """
        closed = (self._folder / self.epoch / CLOSED).exists()
        over = closed or (self._folder / self.epoch / RECOVERED).exists()
        size = self._size()
        if self.done or (size == self._read_size and not over):
            return False
        with store.shipping() as conn:
            batch = _Batch()
            seq, at_end = self._read(conn, batch, over)
            whole = over and at_end
            if whole:
                self._put_interrupted(conn, batch)
            watermark_ns = max(self._watermark_ns, self._fold.watermark_ns)
            if at_end:
                self._read_size = size
            calls_through = self._fold.calls_through
            news = batch.entries or whole or calls_through > self._calls_through
            if not news and watermark_ns - self._watermark_ns < self._settings.ledger_checkpoint_s * 250_000_000:
                return not at_end  # a quiet epoch: its word that nothing happened need not be brought each time
            if not shipping.hold_keys(conn, batch.contents.subjects):
                self._keys.forget()
                raise Conflict("a subject was erased while its calls were on their way", code="erased")
            make_durable(self._folder, self.epoch, self._files)
            resume = self._fold.resume_segment(self._segment)
            progress = shipping.Progress(
                *(self.epoch, self.shipped_seq, seq, resume, watermark_ns, self.damaged, whole, whole and closed),
                receipt_key=self._receipt_key,
                calls_through=calls_through,
            )
            shipping.ship(conn, progress, batch.entries, batch.contents, batch.lists)
        self.shipped_seq, self._watermark_ns, self.done = seq, watermark_ns, whole
        self._calls_through = calls_through
        self.resume_segment = resume
        return not at_end

    def _size(self) -> tuple[int, int]:
        """Last segment and its size: the log has nothing new while they stay."""
        indices = segments(self._folder, self.epoch)
        return (indices[-1], segment_path(self._folder, self.epoch, indices[-1]).stat().st_size) if indices else (-1, 0)

    def _read(self, conn: Connection[Any], batch: _Batch, over: bool) -> tuple[int, bool]:
        """Fill a batch: (sequence number of the last record in it, whether the end of the log was reached)."""
        seq = shipped = self.shipped_seq
        entries_max, bytes_max = self._settings.ledger_batch_entries, self._settings.ledger_batch_bytes
        while True:
            try:
                for frame in self._reader.frames():
                    self._segment = frame.segment
                    if frame.seq <= shipped:
                        self._take(conn, frame, None)
                        continue
                    seq = frame.seq
                    if not self._take(conn, frame, batch):
                        continue
                    if len(batch.entries) >= entries_max or batch.bytes >= bytes_max:
                        return seq, False
                if over:
                    self._reader.end()
                return seq, True
            except LogCorrupt as e:
                self._damage(e.message)
                if not self._reader.salvage():
                    return seq, True

    def _take(self, conn: Connection[Any], frame: Frame, batch: _Batch | None) -> bool:
        """Fold one record; `batch` None: it is shipped already. Whether it completed anything."""
        try:
            completed = self._fold.feed(frame)
        except Unreadable as e:
            self._damage(f"record {frame.seq} of epoch {self.epoch} is {e}")
            return False
        if completed is None:
            return False
        at_ns, folded = completed
        self._remember(folded)
        if batch is not None:
            self._put(conn, at_ns, folded, batch)
        return True

    def _put(self, conn: Connection[Any], at_ns: int, folded: Folded, batch: _Batch) -> None:
        draft = self._draft(conn, at_ns, folded)
        if draft is None:
            return
        n = self._counts[draft.tenant_id] = self._counts.get(draft.tenant_id, 0) + 1
        draft.leaf.update(epoch=self.epoch, n=n)
        batch.entries.append(shipping.InboxEntry(draft.tenant_id, n, encode_leaf(draft.leaf)))
        if not draft.contents:
            return
        use = draft.tenant_id, draft.subject
        data_class, day = draft.leaf["what"]["data_class"], draft.at_ns // NS_PER_DAY
        batch.contents.add(*use, draft.contents, data_class, day)
        if draft.lists:
            batch.lists.add(*use, draft.lists, data_class, day)
        batch.bytes += sum([len(each.data) for each in draft.contents])

    def _put_interrupted(self, conn: Connection[Any], batch: _Batch) -> None:
        """What a dead epoch left open, as the epoch that recovered it says."""
        if not self._fold.open_calls:
            return
        told = interrupted_of(self._folder, self.epoch)
        for at_ns, call in self._fold.interrupted(told):
            if call.interrupted is None:
                self._damage(f"nothing says how call {call.call} of epoch {self.epoch} was interrupted")
            self._put(conn, at_ns, call, batch)

    def _draft(self, conn: Connection[Any], at_ns: int, folded: Folded) -> Draft | None:
        if isinstance(folded, CallRecords):
            first = folded.intent or folded.refusal
            assert first is not None  # noqa: S101 - the fold gives no call without either
            held = self._keys.of(conn, first.tenant_id, subject_of(first))
            kept = at_ns > held.erased_ns
            return _under(held, call_entry(folded, at_ns, held.key if kept else None), kept=kept)
        if isinstance(folded, Feedback):
            if not content_of(folded):
                return feedback_entry(folded, self.epoch, at_ns, None)
            held = self._keys.of(conn, folded.tenant_id, folded.subject)
            kept = at_ns > held.erased_ns
            return _under(held, feedback_entry(folded, self.epoch, at_ns, held.key if kept else None), kept=kept)
        if isinstance(folded, EnergyMeasured):
            tenant_id = self._tenant_of(folded.call)
            return energy_entry(folded, self.epoch, tenant_id, at_ns) if tenant_id else None
        return None

    def _remember(self, folded: Folded) -> None:
        if isinstance(folded, EpochOpen) and len(folded.receipt_key) == RECEIPT_KEY_BYTES:
            self._receipt_key = folded.receipt_key
        if isinstance(folded, CallRecords) and folded.intent is not None:
            self._tenants[folded.call] = folded.intent.tenant_id
            if len(self._tenants) > TENANTS_KEPT:
                self._tenants.popitem(last=False)

    def _tenant_of(self, call: int) -> str:
        known = self._tenants.get(call)
        if known is None:
            found = self._find(request_id(self.epoch, call))
            known = found.intent.tenant_id if found is not None and found.intent is not None else ""
        return known

    def _damage(self, words: str) -> None:
        self.damaged = True
        log.error("shipping goes on behind damage: %s", words, extra={"epoch": self.epoch})


def _under(held: Held, draft: Draft, *, kept: bool) -> Draft:
    """An entry as it is for the key that its contents are under: that of its subject, or the one after an erasure."""
    if not kept:
        draft.leaf["erased"] = True
    elif held.name != draft.subject:
        draft.leaf["who"]["key"] = held.name
        return draft._replace(subject=held.name)
    return draft


def finder(folder: Path) -> FindCall:
    """Look calls up in the log of `folder`; damage counts as not found."""
    from interlock.ledger.reader import find_call

    def find(identifier: str) -> CallRecords | None:
        try:
            return find_call(folder, identifier)
        except LogCorrupt as e:
            log.error("a call cannot be read again: %s", e.message)
            return None

    return find
