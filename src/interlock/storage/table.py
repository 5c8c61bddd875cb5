"""What all aggregates share: a row with its revision, and create, read, update and delete that cannot forget anything.

Every write does three things in the transaction of the caller: it writes the row, it writes who did it and why
(`changes`), and it marks the parts of the snapshot that are no longer right (`snapshots.mark_dirty`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, LiteralString, TypeVar

import msgspec
from psycopg import Connection, sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from interlock.errors import Conflict, NotFound
from interlock.storage.changes import Author, Change, record
from interlock.storage.snapshots import mark_dirty

T = TypeVar("T", bound=msgspec.Struct)
U = TypeVar("U", bound=msgspec.Struct)


class Stored(msgspec.Struct, Generic[T], frozen=True):
    """A value as it is kept. `revision` starts at 1 and grows with every change (optimistic concurrency)."""

    value: T
    revision: int
    created_at: datetime
    updated_at: datetime


class Table(Generic[T]):
    """One table of `type_` values; each of `columns` is a field of that type and a column of the same name.

    `json` columns hold nested values, `computed` ones are read with an expression (the table is `t`) and never written,
    `unseen` ones are given at insert and never read. `parts(value)` names the snapshot parts in which a value appears.
    A `tenant_id` of "" is stored as NULL: the row then belongs to the platform, and no tenant's connection sees it.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        type_: type[T],
        columns: Sequence[str],
        *,
        json: Iterable[str] = (),
        parts: Callable[[T], Iterable[str]] = lambda _: (),
        computed: Mapping[str, LiteralString] | None = None,
        unseen: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.kind = kind
        self.type = type_
        self.columns = tuple(columns)
        self.json = frozenset(json)
        self.parts = parts
        self.tenanted = "tenant_id" in self.columns
        table = sql.Identifier("interlock", name)
        shown: list[sql.Composable] = [
            sql.SQL("coalesce(t.tenant_id, '') AS tenant_id") if c == "tenant_id" else sql.Identifier("t", c)
            for c in self.columns
        ]
        shown += [sql.SQL("{} AS {}").format(sql.SQL(e), sql.Identifier(c)) for c, e in (computed or {}).items()]
        shown += [sql.SQL("t.revision, t.created_at, t.updated_at")]
        self.select = sql.SQL("SELECT {} FROM {} AS t ").format(sql.SQL(", ").join(shown), table)
        self._insert = sql.SQL("INSERT INTO {} ({}, created_at, updated_at) VALUES ({}, %(at)s, %(at)s)").format(
            table,
            sql.SQL(", ").join(map(sql.Identifier, (*self.columns, *unseen))),
            sql.SQL(", ").join(self._value(c) for c in (*self.columns, *unseen)),
        )
        self._update = sql.SQL(
            "UPDATE {} SET {}, revision = revision + 1, updated_at = %(at)s WHERE id = %(id)s"
        ).format(
            table,
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(c), self._value(c)) for c in self.columns if c != "id"
            ),
        )
        self._delete = sql.SQL("DELETE FROM {} WHERE id = %s").format(table)

    # -- reading

    def get(self, conn: Connection[Any], id_: str) -> Stored[T] | None:
        """The row of that id, or None when there is none that this connection may see."""
        return self._one(conn, sql.SQL("WHERE t.id = %s"), (id_,))

    def by_name(self, conn: Connection[Any], name: str, tenant_id: str = "") -> Stored[T] | None:
        """The row of that name in that tenant ("": the platform's), or None."""
        if not self.tenanted:
            return self._one(conn, sql.SQL("WHERE t.name = %s"), (name,))
        where = sql.SQL("WHERE t.tenant_id IS NOT DISTINCT FROM nullif(%s, '') AND t.name = %s")
        return self._one(conn, where, (tenant_id, name))

    def page(
        self, conn: Connection[Any], *, tenant_id: str | None = None, after: str = "", limit: int = 100
    ) -> list[Stored[T]]:
        """At most `limit` rows in id order, from the one behind `after`.

        `tenant_id` None: all that this connection may see; "": the platform's own only.
        """
        where: sql.Composable = sql.SQL("WHERE t.id > %s")
        args = [after]
        if tenant_id is not None and self.tenanted:
            where += sql.SQL(" AND t.tenant_id IS NOT DISTINCT FROM nullif(%s, '')")
            args.append(tenant_id)
        return self.where(conn, where + sql.SQL(" ORDER BY t.id LIMIT %s"), (*args, limit))

    def where(self, conn: Connection[Any], where: sql.Composable, args: Sequence[object]) -> list[Stored[T]]:
        """The rows that a clause of SQL (`WHERE t.…`, the table is `t`) selects."""
        with conn.cursor(row_factory=dict_row) as cursor:
            return [self._stored(row) for row in cursor.execute(sql.Composed([self.select, where]), args)]

    def all_as(self, conn: Connection[Any], type_: type[U], where: sql.Composable | None = None) -> list[U]:
        """Every row this connection may see, in id order, as plain `type_` values (a type with fewer fields)."""
        query = sql.Composed([self.select, where or sql.SQL(""), sql.SQL(" ORDER BY t.id")])
        with conn.cursor(row_factory=dict_row) as cursor:
            return [msgspec.convert(row, type_) for row in cursor.execute(query)]

    # -- writing

    def insert(
        self,
        conn: Connection[Any],
        value: T,
        by: Author,
        *,
        action: str = "create",
        unseen: Mapping[str, object] | None = None,
    ) -> Stored[T]:
        """Store a new value, with the `unseen` columns that only the database holds.

        Raises Conflict when its id or name is taken, or what it refers to does not exist.
        """
        conn.execute(self._insert, self._arguments(value, by) | dict(unseen or {}))
        self.write_links(conn, value)
        return self._finish(conn, action, None, value, by)

    def update(
        self, conn: Connection[Any], value: T, by: Author, *, revision: int | None = None, action: str = "update"
    ) -> Stored[T]:
        """Replace the value of the same id. An equal value changes nothing, and no change is recorded.

        Raises NotFound, and Conflict when `revision` is given and is not the stored one.
        """
        before = self.lock(conn, self.id_of(value), revision)
        if before.value == value:
            return before
        conn.execute(self._update, self._arguments(value, by))
        self.write_links(conn, value)
        return self._finish(conn, action, before.value, value, by)

    def delete(self, conn: Connection[Any], id_: str, by: Author, *, revision: int | None = None) -> Stored[T]:
        """Remove a row and give back what it was.

        Raises NotFound, and Conflict when something still refers to it or `revision` is not the stored one.
        """
        before = self.lock(conn, id_, revision)
        conn.execute(self._delete, (id_,))
        mark_dirty(conn, self.parts(before.value))
        self.record(conn, "delete", before.value, None, by)
        return before

    def lock(self, conn: Connection[Any], id_: str, revision: int | None = None) -> Stored[T]:
        """The row, locked until the end of the transaction. Raises NotFound, or Conflict on another revision."""
        found = self._one(conn, sql.SQL("WHERE t.id = %s FOR UPDATE OF t"), (id_,))
        if found is None:
            raise NotFound(f"there is no {self.kind} {id_!r}")
        if revision is not None and found.revision != revision:
            raise Conflict(
                f"{self.kind} {id_!r} was changed meanwhile: it has revision {found.revision}, not {revision}; "
                "read it again and repeat the change",
                code="revision_conflict",
            )
        return found

    def write_links(self, conn: Connection[Any], value: T) -> None:
        """For aggregates with rows in a second table: write these, after the row itself."""

    # -- inside

    @staticmethod
    def id_of(value: T) -> str:
        """The id of a value."""
        return str(value.id)  # type: ignore[attr-defined]

    def _value(self, column: str) -> sql.Composable:
        holder = sql.Placeholder(column)
        return sql.SQL("nullif({}, '')").format(holder) if column == "tenant_id" else holder

    def _arguments(self, value: T, by: Author) -> dict[str, Any]:
        arguments: dict[str, Any] = {"at": by.at}
        for column in self.columns:
            plain = msgspec.to_builtins(getattr(value, column), builtin_types=(datetime, bytes))
            if column in self.json:
                arguments[column] = None if plain is None else Jsonb(plain)
            else:
                arguments[column] = list(plain) if isinstance(plain, tuple) else plain
        return arguments

    def _finish(self, conn: Connection[Any], action: str, before: T | None, value: T, by: Author) -> Stored[T]:
        after = self.get(conn, self.id_of(value))
        assert after is not None  # noqa: S101  INVARIANT: written in this transaction
        mark_dirty(conn, {*self.parts(after.value), *(self.parts(before) if before is not None else ())})
        self.record(conn, action, before, after.value, by)
        return after

    def record(self, conn: Connection[Any], action: str, before: T | None, after: T | None, by: Author) -> None:
        value = after if after is not None else before
        assert value is not None  # noqa: S101  INVARIANT: one of the two is given
        change = Change(
            tenant_id=getattr(value, "tenant_id", "") if self.tenanted else self.id_of(value),
            action=f"{self.kind}.{action}",
            object_kind=self.kind,
            object_id=self.id_of(value),
            before=None if before is None else msgspec.to_builtins(before),
            after=None if after is None else msgspec.to_builtins(after),
        )
        record(conn, change, by)

    def _one(self, conn: Connection[Any], where: sql.Composable, args: Sequence[object]) -> Stored[T] | None:
        rows = self.where(conn, where, args)
        return rows[0] if rows else None

    def _stored(self, row: dict[str, Any]) -> Stored[T]:
        return Stored(
            value=msgspec.convert(row, self.type),
            revision=row["revision"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )
