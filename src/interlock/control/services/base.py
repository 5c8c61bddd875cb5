"""What the services share: one transaction with its author, the means to make ids and times, and names."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from psycopg import Connection

from interlock.control.power import Factor
from interlock.errors import NotFound
from interlock.settings import Settings
from interlock.storage import names, principals, teams, tenants
from interlock.storage.changes import Author
from interlock.storage.ids import make_id
from interlock.types.clock import Clock
from interlock.types.identity import DataClass, Principal, Recording, Workload

_LEARNT = ("prn_", "team_")
"""How ids begin whose names are looked up together."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tools:
    """Clock, randomness, pepper, settings and what files of theirs hold, passed in. `random(n)` gives n random bytes,
    `below(n)` an integer in [0, n). `carbon_factors` by region."""

    settings: Settings
    clock: Clock
    random: Callable[[int], bytes]
    below: Callable[[int], int]
    pepper: bytes
    carbon_factors: Mapping[str, Factor] = dataclasses.field(default_factory=dict)

    def new_id(self, kind: str) -> str:
        """A new id; see `interlock.storage.ids`."""
        return make_id(kind, now_ms=self.clock.wall_ns() // 1_000_000, random=self.random)

    def now(self) -> datetime.datetime:
        """Now, in UTC."""
        return datetime.datetime.fromtimestamp(self.clock.wall_ns() / 1e9, datetime.UTC)


@dataclasses.dataclass(slots=True)
class Tx:
    """One transaction: the connection, who changes what and why, and the names looked up in it so far."""

    conn: Connection[Any]
    by: Author
    tools: Tools
    names: Names = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.names = Names(self.conn)


class Names:
    """Names to ids and back, as one connection sees them; each is asked for once.

    INVARIANT: lives no longer than one transaction, so that it cannot be older than what it speaks of.
    """

    def __init__(self, conn: Connection[Any]) -> None:
        self._conn = conn
        self._tenants: dict[str, str] = {"": ""}
        self._teams: dict[tuple[str, str], str] = {}
        self._principals: dict[tuple[str, str], str] = {}
        self._named: dict[str, str] = {"": "", "*": "*"}
        self._planned: dict[tuple[str, str], str] = {}

    def tenant(self, name: str) -> str:
        """Tenant id of a name ("" for ""). Raises NotFound."""
        if name not in self._tenants:
            found = tenants.by_name(self._conn, name)
            if found is None:
                raise NotFound(f"there is no tenant {name!r}", param="tenant")
            self.learn(found.value.id, name)
            self._tenants[name] = found.value.id
        return self._tenants[name]

    def team(self, tenant_id: str, name: str) -> str:
        """Team id of a name. Raises NotFound."""
        key = (tenant_id, name)
        if key not in self._teams:
            found = teams.by_name(self._conn, tenant_id, name)
            if found is None:
                raise NotFound(f"there is no team {name!r}", param="team")
            self._teams[key] = found.value.id
        return self._teams[key]

    def principal(self, tenant_id: str, name: str) -> str:
        """Principal id of a name ("*" for "*"). Raises NotFound."""
        if name == "*":
            return name
        key = (tenant_id, name)
        if key not in self._principals:
            found = principals.by_name(self._conn, tenant_id, name)
            if found is None:
                raise NotFound(f"there is no principal {name!r}", param="principal")
            self._principals[key] = found.value.id
        return self._principals[key]

    def plan_principal(self, tenant_id: str, name: str, id_: str) -> None:
        """Fix the id of a principal that will be made, so that others made before it can refer to it."""
        self._principals[tenant_id, name] = self._planned[tenant_id, name] = id_

    def planned(self, tenant_id: str, name: str) -> str:
        """The id fixed for a principal, or ""."""
        return self._planned.get((tenant_id, name), "")

    def learn(self, id_: str, name: str) -> None:
        """Remember what an id is called, from a row that was read anyway."""
        self._named[id_] = name

    def learn_all(self, ids: Iterable[str]) -> None:
        """Look up principals and teams together; what is not found among them is its id from now on."""
        wanted = {id_ for id_ in ids if id_.startswith(_LEARNT) and id_ not in self._named}
        if wanted:
            self._named |= {id_: id_ for id_ in wanted} | names.of(self._conn, wanted)

    def of(self, id_: str) -> str:
        """The name of a tenant, team or principal; the id itself when it is gone or not visible."""
        if id_ not in self._named:
            self._named[id_] = self._look_up(id_)
        return self._named[id_]

    def _look_up(self, id_: str) -> str:
        prefix = id_.partition("_")[0]
        if prefix == "ten":
            tenant = tenants.get(self._conn, id_)
            return tenant.value.name if tenant else id_
        if prefix == "team":
            team = teams.get(self._conn, id_)
            return team.value.name if team else id_
        found: Principal | None = None
        if prefix == "prn":
            stored = principals.get(self._conn, id_)
            found = stored.value if stored else None
        return found.name if found else id_


def data_class_name(value: int) -> Any:
    """The word for a data class."""
    return DataClass(value).name


def recording_name(value: int) -> Any:
    """The word for what of a call is kept."""
    return Recording(value).name


def workload_name(value: int) -> Any:
    """The word for how urgent a call is."""
    return Workload(value).name


def missing(kind: str, name: str) -> NotFound:
    """The error for a thing that is not there, or that this connection may not see."""
    return NotFound(f"there is no {kind} {name!r}", param=name)
