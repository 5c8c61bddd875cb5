"""From a document to its chunks, the attempts at each, and what came of them: what callers have labelled, with proofs.

Names of documents are contents: entries hold keyed hashes of them under their subjects' keys. So a name is looked for
under each key of the tenant that is there, and what was erased can no longer be found by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from psycopg import Connection

from interlock.control.services.ledger import CallView, EntryView, call_view
from interlock.errors import BadRequest, NotFound
from interlock.ledger.sums import Sums, decode_leaf, measured, sums_of
from interlock.settings import Settings
from interlock.storage import ledger_read, shipping
from interlock.storage.ledger_keys import GENERATION, Erased, LedgerKeys

CALLS_MAX = 2000
"""Most calls of one document that are told at once."""
NAME_MAX = 256
"""Longest name of a document, a batch or a subject that is looked for, in characters."""
SUBJECTS_MAX = 100_000
"""Most subjects of a tenant under whose keys a name is looked for; beyond that the subject must be named."""


class Chunk(msgspec.Struct, frozen=True):
    """A chunk of a document. `chunk`: its number, null for calls that name none. `answered`: one of its calls was
    completed. `calls`: oldest first; those after the first are the caller's own repetitions, and the attempts of each
    (failovers) are in its entry as `where.attempts`, one by one in its content `record`."""

    chunk: int | None
    answered: bool
    calls: list[CallView]


class Range(msgspec.Struct, frozen=True):
    """Numbers from `first` to `last`, both included."""

    first: int
    last: int


class Totals(msgspec.Struct, frozen=True):
    """What all calls took. Cost in nano-USD, of which `reserved_nusd` where nobody knows what was used; energy in
    microjoules, within [low_uj, high_uj], `measured_uj` of it measured; carbon in micrograms."""

    calls: int
    refusals: int
    failures: int
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    nusd: int
    reserved_nusd: int
    uj: int
    low_uj: int
    high_uj: int
    measured_uj: int
    co2e_ug: int


class Evidence(msgspec.Struct, frozen=True):
    """What the ledger has of a document. `subjects`: whose data its calls are. `chunks`: how many it has, where callers
    said so. `missing`: numbers of chunks without any call, up to `chunks`, else up to the greatest number met.
    `unanswered`: numbers of chunks of which no call was completed. `truncated`: there are more calls than are told."""

    document: str
    batch: str
    subjects: list[str]
    chunks: int | None
    parts: list[Chunk]
    missing: list[Range]
    unanswered: list[int]
    totals: Totals
    truncated: bool


def check_names(document: str, batch: str, subject: str) -> None:
    """Whether these can be names of a document, a batch and a subject; the last two may be "". Raises BadRequest."""
    for name, text in (("document", document), ("batch", batch), ("subject", subject)):
        if len(text) > NAME_MAX or not text.isprintable() or (name == "document" and not text):
            raise BadRequest(f"{name} is at most {NAME_MAX} printable characters", param=name)


def evidence(
    conn: Connection[Any],
    tenant_id: str,
    asked: tuple[str, str, str],
    keys: LedgerKeys,
    settings: Settings,
    *,
    content: bool,
) -> Evidence:
    """`asked`: document, batch ("": any), id of the subject ("": any). Raises NotFound, BadRequest."""
    document, batch, subject = asked
    found, batches = _find(conn, tenant_id, document, batch, subject, keys)
    truncated = len(found) > CALLS_MAX
    found = found[:CALLS_MAX]
    leaves = [(entry, msgspec.json.decode(entry.leaf)) for entry in found]
    if batch:
        leaves = [(entry, leaf) for entry, leaf in leaves if leaf["work"].get("batch") in batches]
    if not leaves:
        raise NotFound("the ledger has no call of this document; what was erased is not found by its name any more")
    later: dict[str, list[ledger_read.Entry]] = {}
    for entry in ledger_read.measurements(conn, tenant_id, [entry.request for entry, _ in leaves]):
        later.setdefault(entry.request, []).append(entry)
    checkpoint = ledger_read.latest_checkpoint(conn, tenant_id)
    if checkpoint is None:
        raise NotFound("this tenant has no signed ledger yet", param="tenant")
    read = ledger_read.node_reader(conn, tenant_id, checkpoint.size)
    parts: dict[int, list[tuple[dict[str, Any], CallView]]] = {}
    sums, attempts, told = Sums(), 0, 0
    for entry, leaf in leaves:
        entries = [entry, *later.get(entry.request, ())]
        sums, attempts = plus(sums, entries), attempts + leaf.get("where", {}).get("attempts", 0)
        view = call_view(conn, tenant_id, entries, checkpoint, read, keys if content else None, settings)
        parts.setdefault(leaf["work"].get("chunk", -1), []).append((leaf, view))
        told = max(told, leaf["work"].get("chunks", 0))
    chunks = [
        Chunk(None if number < 0 else number, _answered(calls), [view for _, view in calls])
        for number, calls in sorted(parts.items())
    ]
    numbers = {number for number in parts if number >= 0}
    unanswered = [each.chunk for each in chunks if each.chunk is not None and not each.answered]
    subjects = sorted({leaf["who"]["subject"] for _, leaf in leaves})
    totals = _totals(sums, attempts)
    missing = _missing(numbers, told)
    return Evidence(document, batch, subjects, told or None, chunks, missing, unanswered, totals, truncated)


def _find(
    conn: Connection[Any], tenant_id: str, document: str, batch: str, subject: str, keys: LedgerKeys
) -> tuple[list[ledger_read.Entry], set[str]]:
    """Entries of a document of this name, and what batches of the other name are called in them."""
    names = shipping.key_names(conn, tenant_id, SUBJECTS_MAX + 1)
    if subject:
        names = [name for name in names if name == subject or name.startswith(f"{subject}{GENERATION}")]
    elif len(names) > SUBJECTS_MAX:
        raise BadRequest(f"this tenant has more than {SUBJECTS_MAX} subjects: name the one", param="subject")
    marks, batches = [], set()
    for name in names:
        try:
            key = keys.named(conn, tenant_id, name)
        except Erased:
            continue  # just now
        marks.append(key.mark(b"document", document))
        batches.add(key.mark(b"batch", batch).hex())
    return ledger_read.of_document(conn, tenant_id, marks, CALLS_MAX + 1) if marks else [], batches


def _answered(calls: list[tuple[dict[str, Any], CallView]]) -> bool:
    return any(leaf["result"]["state"] == "completed" for leaf, _ in calls)


def plus(sums: Sums, entries: Sequence[ledger_read.Entry | EntryView]) -> Sums:
    """The sums with a call and what was measured of it."""
    call, *more = (decode_leaf(entry.leaf) for entry in entries)
    sums = sums.plus(sums_of(call))
    for each in more:
        if each.kind == "energy":
            sums = sums.plus(measured(call, each))
    return sums


def _totals(sums: Sums, attempts: int) -> Totals:
    values = sums._asdict()
    return Totals(**{name: values.get(name, attempts) for name in Totals.__struct_fields__})


def _missing(numbers: set[int], told: int) -> list[Range]:
    """Gaps. Who counts from 0 has a chunk 0; else counting begins at 1."""
    if not numbers and not told:
        return []
    first = 0 if 0 in numbers else 1
    last = max(max(numbers, default=0), first + told - 1)
    out, expected = [], first
    for number in [*sorted(number for number in numbers if number >= first), last + 1]:
        if number > expected:
            out.append(Range(expected, number - 1))
        expected = number + 1
    return out
