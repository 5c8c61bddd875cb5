"""What shippers write: a node's epochs and how far they are, entries, encrypted contents, wrapped keys.

An epoch is shipped by whoever advances its `shipped_seq`: a shipper that finds it elsewhere than where it left it has
been overtaken by another one, and stops. What it brought is in the same transaction, so that nothing comes twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from functools import lru_cache
from operator import itemgetter
from typing import Any, LiteralString, NamedTuple

import msgspec
from psycopg import Connection, sql
from psycopg.rows import class_row

from interlock.errors import Conflict
from interlock.storage.columns import Kind, bigints, bytestrings, columns, integers, texts

SETTLE_LOCK = 4_701_001
"""Advisory lock under which an epoch gets its place among the settled ones, so that places appear in order."""
CONTENTS_LOCK_SPACE = 4_703
"""Advisory locks of tenants' contents: shared by who adds to them, alone for who destroys a subject's key."""
NOTIFY_INBOX = "interlock_ledger"


class Epoch(msgspec.Struct, frozen=True):
    """An epoch as the database knows it. See v0004_ledger."""

    epoch: str
    node: str
    shipped_seq: int = 0
    resume_segment: int = 0
    floor_ns: int = 0
    watermark_ns: int = 0
    damaged: bool = False
    whole: bool = False
    closed: bool = False
    settled: int | None = None


class Progress(NamedTuple):
    """How far a batch takes an epoch. `whole`: everything its log will ever hold is shipped."""

    epoch: str
    from_seq: int
    shipped_seq: int
    resume_segment: int
    watermark_ns: int
    damaged: bool
    whole: bool
    closed: bool
    receipt_key: bytes | None = None
    """As the epoch's first record names it, when this batch begins there."""
    calls_through: int = 0
    """Every call of the epoch up to this number is here, or never will be."""


class InboxEntry(NamedTuple):
    """An entry on its way to its tree. `leaf`: canonical JSON."""

    tenant_id: str
    n: int
    leaf: bytes


class Uses:
    """Encrypted contents, or lists of them, that a batch uses: each once, with the newest day (since 1970, UTC) of each
    data class whose calls use it."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], dict[bytes, tuple[tuple[Any, ...], Days]]] = {}

    def add(self, tenant_id: str, subject: str, items: Iterable[tuple[Any, ...]], data_class: int, day: int) -> None:
        """What a call of a subject uses: items beginning with (id, data) of contents, (id, previous, item) of lists."""
        known = self._of.setdefault((tenant_id, subject), {})
        days = _days(data_class, day)
        for item in items:
            found = known.get(item[0])
            if found is None:
                known[item[0]] = item, days
            elif found[1] is not days:
                known[item[0]] = found[0], _newest(found[1], days)

    @property
    def subjects(self) -> Set[tuple[str, str]]:
        """(tenant, subject) of all that is used."""
        return self._of.keys()

    def rows(self, fields: int) -> list[tuple[Any, ...]]:
        """(tenant, subject, *the first `fields` of the item, *days), in the order of the key: two shippers that bring
        the same contents must not wait for each other."""
        return [
            (*name, *item[:fields], *days)
            for name, known in sorted(self._of.items(), key=itemgetter(0))
            for _, (item, days) in sorted(known.items(), key=itemgetter(0))
        ]


Days = tuple[int | None, int | None, int | None, int | None]
"""The newest day by data class, as `DataClass` numbers them; None where none of that class uses it."""


@lru_cache(maxsize=64)
def _days(data_class: int, day: int) -> Days:
    days: list[int | None] = [None] * 4
    days[data_class] = day
    return days[0], days[1], days[2], days[3]


def _newest(one: Days, other: Days) -> Days:
    a, b, c, d = (x if y is None or (x is not None and x > y) else y for x, y in zip(one, other, strict=True))
    return a, b, c, d


def register(conn: Connection[Any], node: str, epochs: Mapping[str, int], at_ns: int) -> list[Epoch]:
    """Make a node's epochs known, and that it had no others at `at_ns`. Returns those not settled, oldest first.

    `epochs`: when each began, Unix nanoseconds.
    """
    conn.execute(
        "INSERT INTO interlock.ledger_epochs (epoch, node, floor_ns, watermark_ns)"
        " SELECT epoch, node, floor_ns, floor_ns FROM (SELECT given.epoch, %(node)s AS node, greatest(given.begun_ns,"
        " (SELECT registered_ns FROM interlock.ledger_nodes WHERE node = %(node)s)) AS floor_ns"
        " FROM unnest(%(epochs)s::text[], %(begun)s::bigint[]) AS given (epoch, begun_ns)) AS new"
        " ON CONFLICT DO NOTHING",
        {"node": node, "epochs": list(epochs), "begun": list(epochs.values())},
    )
    # Of a node that comes back after it was retired: as long as it may still write what was given up, nothing is said
    # of what it took since.
    conn.execute(
        "INSERT INTO interlock.ledger_nodes AS t (node, registered_ns) VALUES (%(node)s, %(at)s)"
        " ON CONFLICT (node) DO UPDATE SET retired_ns = NULL, registered_ns = greatest(t.registered_ns, least(%(at)s,"
        " (SELECT min(lost_ns) FROM interlock.ledger_epochs WHERE epoch = ANY(%(epochs)s) AND NOT returned)))",
        {"node": node, "at": at_ns, "epochs": list(epochs)},
    )
    with conn.cursor(row_factory=class_row(Epoch)) as cursor:
        return list(
            cursor.execute(
                "SELECT epoch, node, shipped_seq, resume_segment, floor_ns, watermark_ns, damaged, whole, closed,"
                " settled FROM interlock.ledger_epochs WHERE epoch = ANY(%s) AND settled IS NULL"
                " ORDER BY epoch",
                (list(epochs),),
            )
        )


def counts(conn: Connection[Any], epoch: str) -> dict[str, int]:
    """How many entries of an epoch each tenant has, of those shipped."""
    rows = conn.execute("SELECT tenant_id, n FROM interlock.ledger_shipped WHERE epoch = %s", (epoch,))
    return dict(rows.fetchall())


def ship(
    conn: Connection[Any],
    progress: Progress,
    entries: Sequence[InboxEntry],
    contents: Uses,
    lists: Uses,
) -> None:
    """Bring a batch of one epoch.

    Raises Conflict (`overtaken`) when another shipper has moved the epoch on.
    """
    p = progress
    moved = conn.execute(
        "UPDATE interlock.ledger_epochs SET shipped_seq = %s, resume_segment = %s,"
        " watermark_ns = greatest(watermark_ns, %s), damaged = damaged OR %s, whole = whole OR %s,"
        " closed = closed OR %s, receipt_key = coalesce(receipt_key, %s),"
        " calls_through = greatest(calls_through, %s)"
        " WHERE epoch = %s AND shipped_seq = %s AND settled IS NULL",
        (
            *(p.shipped_seq, p.resume_segment, p.watermark_ns, p.damaged, p.whole, p.closed, p.receipt_key),
            p.calls_through,
            *(p.epoch, p.from_seq),
        ),
    )
    if moved.rowcount != 1:
        row = conn.execute(
            "SELECT 1 FROM interlock.ledger_epochs WHERE epoch = %s AND lost_ns IS NOT NULL", (p.epoch,)
        ).fetchone()
        if row is not None:
            raise Conflict(f"epoch {p.epoch} was given up when its node was retired", code="retired")
        raise Conflict(f"another process ships epoch {p.epoch}", code="overtaken")
    _contents(conn, contents)
    _lists(conn, lists)
    _entries(conn, p.epoch, entries)
    if entries:
        conn.execute("SELECT pg_notify(%s, '')", (NOTIFY_INBOX,))


def settle(conn: Connection[Any], epochs: Sequence[str]) -> int:
    """Give those of `epochs` of which everything is here their place among the settled ones. Returns how many."""
    hold_places(conn)
    return conn.execute(
        "UPDATE interlock.ledger_epochs AS t SET settled = found.place FROM ("
        " SELECT epoch, (SELECT coalesce(max(settled), 0) FROM interlock.ledger_epochs)"
        " + row_number() OVER (ORDER BY epoch) AS place FROM interlock.ledger_epochs"
        " WHERE epoch = ANY(%s) AND settled IS NULL AND whole"
        ") AS found WHERE t.epoch = found.epoch",
        (list(epochs),),
    ).rowcount


def hold_places(conn: Connection[Any]) -> None:
    """Until the transaction ends nobody else gives an epoch its place among the settled ones."""
    conn.execute("SELECT pg_advisory_xact_lock(%s)", (SETTLE_LOCK,))


class KeyRow(NamedTuple):
    """A subject's key, wrapped; b"" once it was destroyed, at `erased_ns`."""

    wrapped: bytes
    erased_ns: int


def key_row(conn: Connection[Any], tenant_id: str, name: str) -> KeyRow | None:
    """A key by its name; None when there is none yet."""
    row = conn.execute(
        "SELECT wrapped, erased_ns FROM interlock.ledger_keys WHERE tenant_id = %s AND subject = %s", (tenant_id, name)
    ).fetchone()
    return None if row is None else KeyRow(row[0] or b"", row[1] or 0)


def key_names(conn: Connection[Any], tenant_id: str, limit: int) -> list[str]:
    """The names of a tenant's keys of subjects that are there, at most `limit`."""
    rows = conn.execute(
        "SELECT subject FROM interlock.ledger_keys WHERE tenant_id = %s AND subject <> '' AND wrapped IS NOT NULL"
        " ORDER BY subject LIMIT %s",
        (tenant_id, limit),
    )
    return [name for (name,) in rows]


def hold_keys(conn: Connection[Any], names: Iterable[tuple[str, str]]) -> bool:
    """Whether all these keys (tenant, name) are there; until the transaction ends nobody destroys one of them."""
    wanted = sorted(set(names))
    for tenant_id in sorted({tenant_id for tenant_id, _ in wanted}):
        conn.execute("SELECT pg_advisory_xact_lock_shared(%s, hashtext(%s))", (CONTENTS_LOCK_SPACE, tenant_id))
    row = conn.execute(
        "SELECT count(*) FROM interlock.ledger_keys AS k JOIN unnest(%s::text[], %s::text[]) AS given (tenant_id, name)"
        " ON k.tenant_id = given.tenant_id AND k.subject = given.name WHERE k.wrapped IS NOT NULL",
        ([tenant_id for tenant_id, _ in wanted], [name for _, name in wanted]),
    ).fetchone()
    return row is not None and row[0] == len(wanted)


def keep_key(conn: Connection[Any], tenant_id: str, subject: str, wrapped: bytes) -> None:
    """Keep a new key, unless another process was faster: read it again afterwards."""
    conn.execute(
        "INSERT INTO interlock.ledger_keys (tenant_id, subject, wrapped) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        (tenant_id, subject, wrapped),
    )


def _contents(conn: Connection[Any], contents: Uses) -> None:
    rows = contents.rows(2)
    if rows and (known := _insert(conn, _INSERT_CONTENTS, rows, _CONTENT)):
        conn.execute(_RAISE["ledger_contents"], columns([(*row[:3], *row[4:]) for row in known], *_USED))


def _lists(conn: Connection[Any], lists: Uses) -> None:
    rows = lists.rows(3)
    if rows and (known := _insert(conn, _INSERT_LISTS, rows, _LIST)):
        conn.execute(_RAISE["ledger_lists"], columns([(*row[:3], *row[5:]) for row in known], *_USED))


def _insert(
    conn: Connection[Any], statement: LiteralString, rows: list[tuple[Any, ...]], kinds: Sequence[Kind]
) -> list[tuple[Any, ...]]:
    """Add what is not there. Returns the rows that were there before, whose days may have to be raised.

    INVARIANT: an id belongs to one subject, because it is made under the subject's key.
    """
    given = {str(number): column for number, column in enumerate(columns(rows, *kinds))}
    known = {id_ for (id_,) in conn.execute(statement, given, binary=True)}
    return [row for row in rows if row[2] in known] if known else []


_DAYS = (integers,) * 4
_USED = (texts, texts, bytestrings, *_DAYS)
_CONTENT = (texts, texts, bytestrings, bytestrings, *_DAYS)
_LIST = (texts, texts, bytestrings, bytestrings, bytestrings, *_DAYS)
# What they give is what was there before, which mostly is little.
_INSERT_CONTENTS = (
    "WITH new AS (INSERT INTO interlock.ledger_contents"
    " (tenant_id, subject, id, data, public_day, internal_day, confidential_day, restricted_day)"
    " SELECT * FROM unnest(%(0)b::text[], %(1)b::text[], %(2)b::bytea[], %(3)b::bytea[],"
    " %(4)b::integer[], %(5)b::integer[], %(6)b::integer[], %(7)b::integer[]) ON CONFLICT DO NOTHING RETURNING id)"
    " SELECT id FROM unnest(%(2)b::bytea[]) AS given (id) WHERE id NOT IN (SELECT id FROM new)"
)
_INSERT_LISTS = (
    "WITH new AS (INSERT INTO interlock.ledger_lists"
    " (tenant_id, subject, id, previous, item, public_day, internal_day, confidential_day, restricted_day)"
    " SELECT * FROM unnest(%(0)b::text[], %(1)b::text[], %(2)b::bytea[], %(3)b::bytea[], %(4)b::bytea[],"
    " %(5)b::integer[], %(6)b::integer[], %(7)b::integer[], %(8)b::integer[]) ON CONFLICT DO NOTHING RETURNING id)"
    " SELECT id FROM unnest(%(2)b::bytea[]) AS given (id) WHERE id NOT IN (SELECT id FROM new)"
)
_RAISE = {
    name: sql.SQL(
        # Only what has a new day is locked and written: most of a long conversation was used on that day before.
        "WITH due AS MATERIALIZED ("
        " SELECT t.tenant_id, t.subject, t.id, g.public_day, g.internal_day, g.confidential_day, g.restricted_day"
        " FROM {table} AS t JOIN unnest(%b::text[], %b::text[], %b::bytea[],"
        " %b::integer[], %b::integer[], %b::integer[], %b::integer[])"
        " AS g (tenant_id, subject, id, public_day, internal_day, confidential_day, restricted_day)"
        " USING (tenant_id, subject, id)"
        " WHERE g.public_day > coalesce(t.public_day, -1) OR g.internal_day > coalesce(t.internal_day, -1)"
        " OR g.confidential_day > coalesce(t.confidential_day, -1)"
        " OR g.restricted_day > coalesce(t.restricted_day, -1)"
        " ORDER BY t.tenant_id, t.subject, t.id FOR UPDATE OF t)"
        " UPDATE {table} AS t SET public_day = greatest(t.public_day, due.public_day),"
        " internal_day = greatest(t.internal_day, due.internal_day),"
        " confidential_day = greatest(t.confidential_day, due.confidential_day),"
        " restricted_day = greatest(t.restricted_day, due.restricted_day) FROM due"
        " WHERE t.tenant_id = due.tenant_id AND t.subject = due.subject AND t.id = due.id"
    ).format(table=sql.Identifier("interlock", name))
    for name in ("ledger_contents", "ledger_lists")
}


def _entries(conn: Connection[Any], epoch: str, entries: Sequence[InboxEntry]) -> None:
    if not entries:
        return
    # COPY would not do: PostgreSQL refuses it on tables with row-level security
    conn.execute(
        "INSERT INTO interlock.ledger_inbox (tenant_id, n, leaf, epoch)"
        " SELECT tenant_id, n, leaf, %s FROM unnest(%b::text[], %b::bigint[], %b::bytea[]) WITH ORDINALITY"
        " AS given (tenant_id, n, leaf, place) ORDER BY place",
        (epoch, *columns(entries, texts, bigints, bytestrings)),
    )
    last: dict[str, int] = {}
    for entry in entries:
        last[entry.tenant_id] = entry.n
    conn.execute(
        "INSERT INTO interlock.ledger_shipped AS t (tenant_id, epoch, n)"
        " SELECT tenant_id, %s, n FROM unnest(%b::text[], %b::bigint[]) AS last (tenant_id, n)"
        " ON CONFLICT (tenant_id, epoch) DO UPDATE SET n = excluded.n",
        (epoch, list(last), list(last.values())),
    )
