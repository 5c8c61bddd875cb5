"""How long the ledger is searched: a year of entries of three tenants, and the questions that auditors ask.

    python -m bench.search 1000000

Entries are made by the database itself, without proofs: only their rows are looked at here. Each question is asked as a
tenant, through row-level security, with other values each time. Milliseconds on the wall, and in times of looking up
one call by its id, which is one walk down an index for each month.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from interlock.settings import Settings
from interlock.storage import ledger_read
from interlock.storage.embedded import EmbeddedPostgres
from interlock.storage.ledger_months import ensure_months
from interlock.storage.ledger_read import Filter
from interlock.storage.migrate import migrate
from interlock.storage.pool import Store

ROUNDS = 40
YEAR_S = 365 * 86_400
FIRST_S = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
DAY_NS = 86_400_000_000_000
PRINCIPALS = 2000
MODELS = 12
ALIASES = 40
_FILL = """
INSERT INTO interlock.ledger_entries (tenant_id, position, at_ns, kind, request, team_id, principal_id, subject,
    source, model, state, leaf, hash, alias, request_class)
SELECT 'ten_' || n %% 3, n / 3, at, 'call', 'req_' || lpad(to_hex(n / 5000), 16, '0') || '_' || to_hex(n %% 5000),
    'team_' || n %% 20, 'prn_' || n %% %(principals)s, 'prn_' || n %% %(principals)s, 'source-' || n %% 4,
    'model-' || n %% %(models)s, CASE WHEN n %% 200 = 0 THEN 'failed' ELSE 'completed' END,
    convert_to('{"at":' || at || ',"pad":"' || repeat(md5(n::text), 36) || '"}', 'UTF8'), sha256(int8send(n)),
    CASE WHEN n %% 1000 = 0 THEN '' WHEN n %% 7 < 5 THEN 'often' ELSE 'alias-' || n %% %(aliases)s END,
    'class-' || n %% 9
FROM (SELECT n, (%(first)s + n * (%(year)s::float8 / %(count)s))::bigint * 1000000000 AS at
      FROM generate_series(0, %(count)s - 1) AS n) AS made
"""
_TEAMS = """
INSERT INTO interlock.tenants (id, name, time_zone, active, created_at, updated_at)
    VALUES ('ten_0', 'zero', 'UTC', true, now(), now());
INSERT INTO interlock.teams (id, tenant_id, name, cost_center, created_at, updated_at)
    SELECT 'team_' || n, 'ten_0', 't' || n, CASE WHEN n < 20 THEN 'center-' || n % 5 ELSE 'idle' END, now(), now()
    FROM generate_series(0, 23) AS n
"""


def fill(url: str, count: int) -> None:
    """A year of entries."""
    with psycopg.connect(url, autocommit=True) as conn:
        for month in range(1, 13):
            ensure_months(conn, datetime(2026, month, 1, tzinfo=UTC))
        conn.execute("SELECT set_config('role', 'interlock_sequencer', false)")
        given = {"count": count, "first": FIRST_S, "year": YEAR_S, "principals": PRINCIPALS, "models": MODELS}
        given |= {"aliases": ALIASES}
        conn.execute(_FILL, given)
        conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
        conn.execute(_TEAMS)
        conn.execute("ANALYZE interlock.ledger_entries")


def questions(rng: random.Random, count: int) -> dict[str, Callable[[Any], object]]:
    """What is asked, with other values each time; the tenant is ten_0."""

    def day() -> int:
        return (FIRST_S + rng.randrange(YEAR_S - 86_400)) * 1_000_000_000

    def search(**given: Any) -> Callable[[Any], object]:
        return lambda conn: ledger_read.search(conn, "ten_0", Filter(**given), limit=100)

    number = rng.randrange(count // 3) * 3
    since = day()
    who = f"prn_{rng.randrange(PRINCIPALS)}"
    request = f"req_{number // 5000:016x}_{number % 5000:x}"
    return {
        "call by id": lambda conn: ledger_read.of_request(conn, "ten_0", request),
        "newest 100": search(),
        "newest 100 of a person": search(principal_id=who),
        "a person on one day": search(principal_id=who, since_ns=since, until_ns=since + DAY_NS),
        "a model on one day": search(model=f"model-{rng.randrange(MODELS)}", since_ns=since, until_ns=since + DAY_NS),
        "newest 100 of an alias": search(alias=f"alias-{rng.randrange(ALIASES)}"),
        "an alias on one day": search(alias="often", since_ns=since, until_ns=since + DAY_NS),
        "without an alias": search(without=("alias",)),
        "an alias of a person": search(alias=f"alias-{rng.randrange(ALIASES)}", principal_id=who),
        "a request class on one day": search(
            request_class=f"class-{rng.randrange(9)}", since_ns=since, until_ns=since + DAY_NS
        ),
        "a cost centre": search(cost_center=f"center-{rng.randrange(5)}"),
        "a cost centre on one day": search(
            cost_center=f"center-{rng.randrange(5)}", since_ns=since, until_ns=since + DAY_NS
        ),
        "a cost centre without calls": search(cost_center="idle"),
        "no such alias": search(alias="nothing"),
        "failures of a week": search(state="failed", since_ns=since, until_ns=since + 7 * DAY_NS),
        "nobody's": search(principal_id="prn_nobody"),
    }


def measure(count: int) -> dict[str, Any]:
    """All figures. Takes a database server of its own, and removes it."""
    base = Path(tempfile.mkdtemp(prefix="interlock-bench-search-"))
    rng = random.Random(1)
    try:
        server = EmbeddedPostgres(
            base / "database", Settings(home=str(base / "database"), embedded_start_timeout_ms=300_000)
        )
        server.start()
        try:
            migrate(server.url, Settings(home=str(base)))
            fill(server.url, count)
            times: dict[str, list[float]] = {}
            with Store(server.url, Settings(home=str(base))) as store:
                for _ in range(ROUNDS):
                    for name, ask in questions(rng, count).items():
                        began = time.monotonic()
                        with store.tenant("ten_0") as conn:
                            ask(conn)
                        times.setdefault(name, []).append((time.monotonic() - began) * 1000)
        finally:
            server.stop()
    finally:
        shutil.rmtree(base, ignore_errors=True)
    beside = sorted(times["call by id"])[ROUNDS // 2]
    return {
        "entries": count,
        "search": {
            name: {
                "p50_ms": round(sorted(each)[ROUNDS // 2], 2),
                "p95_ms": round(sorted(each)[ROUNDS * 95 // 100], 2),
                "in_lookups": round(sorted(each)[ROUNDS // 2] / beside, 1),
            }
            for name, each in times.items()
        },
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1])), indent=1))
