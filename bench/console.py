"""How long the console's pages take over a large ledger: from the request until the whole answer is there.

    python -m bench.console 1000000

`interlock up --demo` runs as its users have it. Entries of 90 days are put into the tree of its tenant acme by the
database itself, with hashes, tiles and sums of usage, so that proofs lead through them; then calls are made through
the gateway, which the sequencer places on top. Each page is asked for over HTTP by one who is signed in, one request at
a time, `ROUNDS` times with other values where it takes any. Milliseconds on the wall.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
import psycopg
from tests.e2e.stack import Stack, fetch, running, temporary_home, until

from interlock.control.console.visit import COOKIE
from interlock.ledger.proof.merkle import CompactRange
from interlock.ledger.proof.tiles import full_tiles
from interlock.settings import Settings
from interlock.storage import sequencing
from interlock.storage.ledger_months import ensure_months
from interlock.storage.pool import Store

ROUNDS = 20
TARGET_MS = 300
DAYS = 90
PRINCIPALS = 300
TEAMS = 20
MODELS = 12
CALLS = 20
"""Made through the gateway, on top of what was filled in."""
_FILL = """
INSERT INTO interlock.ledger_entries
    (tenant_id, position, at_ns, kind, request, team_id, principal_id, subject, source, model, state, leaf, hash,
     document)
SELECT %(tenant)s, %(size)s + n, at, kind, request, team, who, who, source, model, state, leaf,
    sha256('\\x00'::bytea || leaf), CASE WHEN n %% 100 = 0 THEN sha256(int8send(n / 5000)) END
FROM (SELECT *, convert_to('{"at":' || at || ',"clock":' || at || ',"contents":[],"cost":{"nusd":' || n %% 1000000
    || ',"price":"source","version":"declared bdf52c553590"},"decided":{"root":"' || repeat('0', 64)
    || '","router":1,"seed":' || n || ',"snapshot":2},"energy":{"high_uj":0,"low_uj":0,"method":"","ug_per_kwh":0,'
    || '"uj":0},"epoch":"bench","kind":"' || kind || '","n":' || n || ',"request":"' || request
    || '","result":{"bytes":1200,"chunks":0,"code":"","finish":["stop"],"state":"' || state || '","status":200},'
    || '"times":{"first_us":' || 20000 + n %% 400000 || ',"total_us":' || 30000 + n %% 900000
    || '},"tokens":{"cache_write":0,"cached":0,"completion":40,"origin":"engine","prompt":250},"tree":"'
    || %(tenant)s || '","v":1,"what":{"alias":"' || alias
    || '","class":"","data_class":1,"dialect":"openai","mode":"balanced","model":"' || model
    || '","operation":"chat","recording":"full","stream":false,"workload":"interactive"},'
    || '"where":{"attempts":1,"engine":"vllm","engine_version":"0.11.0","model":"' || model || '","name":"' || source
    || '","off_prem":false,"served":"' || model || '","source":"src_bench","version":""},"who":{"auth":"api_key",'
    || '"credential":"key_bench","delegation":"","delegator":"","kind":"user","principal":"' || who || '","subject":"'
    || who || '","team":"' || team || '"}}', 'UTF8') AS leaf
  FROM (SELECT n, (%(first)s + n * (%(days)s * 86400.0 / %(count)s))::bigint * 1000000000 + n %% 1000000000 AS at,
        CASE WHEN n %% 40 = 0 THEN 'refusal' ELSE 'call' END AS kind, 'req_bench_' || to_hex(n) AS request,
        (%(teams)s::text[])[1 + n %% cardinality(%(teams)s::text[])] AS team,
        (%(people)s::text[])[1 + n %% cardinality(%(people)s::text[])] AS who,
        CASE WHEN n %% 8 = 0 THEN 'assistant' ELSE '' END AS alias,
        'source-' || n %% 4 AS source, 'model-' || n %% %(models)s AS model,
        CASE WHEN n %% 40 = 0 THEN 'refused' WHEN n %% 199 = 0 THEN 'failed' ELSE 'completed' END AS state
      FROM generate_series(0, %(count)s - 1) AS n) AS made) AS whole
"""
_USAGE = """
INSERT INTO interlock.ledger_usage (tenant_id, day, team_id, principal_id, source, model, request_class, workload,
    alias, calls, refusals, failures, prompt_tokens, completion_tokens, nusd)
SELECT tenant_id, (to_timestamp(at_ns / 1e9) AT TIME ZONE 'UTC')::date, team_id, principal_id, source, model, '',
    'interactive', convert_from(leaf, 'UTF8')::json #>> '{what,alias}',
    count(*) FILTER (WHERE kind = 'call'), count(*) FILTER (WHERE kind = 'refusal'),
    count(*) FILTER (WHERE state = 'failed'), 250 * count(*), 40 * count(*), 500000 * count(*)
FROM interlock.ledger_entries WHERE tenant_id = %s AND request LIKE 'req\\_bench\\_%%'
GROUP BY 1, 2, 3, 4, 5, 6, 9
"""


class People:
    """Who has called: ids of acme's principals and teams, and the tenant's own."""

    def __init__(self, demo: Stack) -> None:
        names = [f"person-{n:03}" for n in range(PRINCIPALS)]
        teams = [f"team-{n:02}" for n in range(TEAMS)]
        document = {
            "tenants": [
                {
                    "name": "acme",
                    "teams": [{"name": name} for name in teams],
                    "principals": [{"name": each, "teams": [teams[n % TEAMS]]} for n, each in enumerate(names)],
                }
            ]
        }
        files = {"files": [{"name": "people.json", "text": json.dumps(document)}]}
        answer = demo.admin("POST", "/apply", files)
        assert answer.status == 200, answer.body
        self.tenant = demo.admin("GET", "/tenants/acme").json()["id"]
        self.people = self._ids(demo, "principals", "person-")
        self.teams = self._ids(demo, "teams", "team-")

    @staticmethod
    def _ids(demo: Stack, kind: str, prefix: str) -> list[str]:
        out: list[str] = []
        after = ""
        while True:
            page = demo.admin("GET", f"/tenants/acme/{kind}?limit=100&after={after}").json()
            out += [item["id"] for item in page["items"] if item["name"].startswith(prefix)]
            if not page["next"]:
                return out
            after = page["next"]


def fill(demo: Stack, who: People, count: int) -> int:
    """Put `count` entries of the last 90 days into acme's tree; how many bytes the database has then."""
    url = demo.postgres().url
    now = datetime.now(UTC)
    with psycopg.connect(url, autocommit=True) as conn:
        for back in range(DAYS // 30 + 2):
            ensure_months(conn, (now - timedelta(days=30 * back)).replace(day=1))
    settings = Settings(home=str(demo.home), database_statement_timeout_ms=900_000)
    with Store(url, settings) as store, store.sequencing() as conn:
        tree = None
        while tree is None:  # the sequencer is at work on it
            tree = sequencing.take_tree(conn, who.tenant)
        first = int((now - timedelta(days=DAYS)).timestamp())
        given: dict[str, Any] = {"tenant": who.tenant, "size": tree.size, "first": first, "days": DAYS}
        given |= {"count": count, "teams": who.teams, "people": who.people, "models": MODELS}
        conn.execute(_FILL, given)
        conn.execute(_USAGE, (who.tenant,))
        _grow(conn, tree, count)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
        conn.execute("ANALYZE interlock.ledger_entries")
        conn.execute("ANALYZE interlock.ledger_usage")
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row is not None
    return int(row[0])


def _grow(conn: psycopg.Connection[Any], tree: sequencing.Tree, count: int) -> None:
    """The tree with what was put behind it, as the sequencer would have it."""
    rows = conn.execute(
        "SELECT hash FROM interlock.ledger_entries WHERE tenant_id = %s AND position >= %s ORDER BY position",
        (tree.tenant_id, tree.size),
    )
    hashes = [bytes(each) for (each,) in rows]
    assert len(hashes) == count
    compact = CompactRange.of(tree.size, tree.hashes)
    for each in hashes:
        compact.append(each)

    def partial(level: int, index: int) -> bytes:
        return sequencing.tile(conn, tree.tenant_id, level, index, tree.size)

    sequencing.put_tiles(conn, tree.tenant_id, list(full_tiles(tree.size, hashes, partial)))
    grown = msgspec.structs.replace(tree, size=compact.size, hashes=list(compact.hashes), signed=False)
    sequencing.put_tree(conn, grown)


class Browser:
    """One connection of one who is signed in."""

    def __init__(self, demo: Stack) -> None:
        password = (demo.home / "secrets" / "console_password").read_text().strip()
        headers = {"content-type": "application/x-www-form-urlencoded", "origin": demo.control}
        body = urlencode({"name": "admin", "password": password}).encode()
        answer = fetch(demo.control, "/console/sign-in", body=body, headers=headers)
        self._cookie = answer.headers["set-cookie"].partition(";")[0]
        assert self._cookie.startswith(COOKIE), answer.status
        parts = urlsplit(demo.control)
        self._connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=120)

    def ms(self, path: str) -> float:
        """Milliseconds until the whole page is there. Raises AssertionError for one that failed."""
        began = time.perf_counter()
        self._connection.request("GET", path, headers={"cookie": self._cookie})
        answer = self._connection.getresponse()
        body = answer.read()
        took = (time.perf_counter() - began) * 1000
        assert answer.status == 200 and b"<main" in body, (path, answer.status)
        return took


def pages(calls: list[str], count: int) -> dict[str, str | Callable[[int], str]]:
    """The path of each page, or of its `n`-th request."""
    today = datetime.now(UTC).date()

    def ledger(**given: object) -> str:
        return "/console/calls?" + urlencode({"tenant": "acme", **given})

    def day(n: int) -> dict[str, str]:
        since = today - timedelta(days=4 * n % DAYS + 1)
        return {"since": f"{since}T00:00", "until": f"{since + timedelta(days=1)}T00:00"}

    def person(n: int) -> str:
        return f"person-{7 * n % PRINCIPALS:03}"

    usage = f"/console/usage?tenant=acme&from={today - timedelta(DAYS)}"
    return {
        "ledger, newest": ledger(),
        "ledger, everything": ledger(kind=""),
        "ledger, an old page": lambda n: ledger(before=1000 + n * count // ROUNDS),
        "ledger, refusals": ledger(kind="refusal"),
        "ledger, a caller": lambda n: ledger(principal=person(n)),
        "ledger, a caller, an old page": lambda n: ledger(principal=person(n), before=count // 20 + n),
        "ledger, a caller, one day": lambda n: ledger(principal=person(n), **day(n)),
        "ledger, nobody": lambda n: ledger(principal=f"nobody-{n}"),
        "ledger, a team": lambda n: ledger(team=f"team-{n % TEAMS:02}"),
        "ledger, a team, an old page": lambda n: ledger(team=f"team-{n % TEAMS:02}", before=count // 20 + n),
        "ledger, no such team": lambda n: ledger(team=f"no-{n}"),
        "ledger, a model": lambda n: ledger(model=f"model-{n % MODELS}"),
        "ledger, a model, an old page": lambda n: ledger(model=f"model-{n % MODELS}", before=count // 20 + n),
        "ledger, no such model": lambda n: ledger(model=f"no-{n}"),
        "ledger, a source": lambda n: ledger(source=f"source-{n % 4}"),
        "ledger, no such source": lambda n: ledger(source=f"no-{n}"),
        "ledger, failures": ledger(state="failed"),
        "ledger, failures, an old page": lambda n: ledger(state="failed", before=count // 20 + n),
        "ledger, a state that none has": ledger(state="cut"),
        "ledger, one day": lambda n: ledger(**day(n)),
        "ledger, failures of one day": lambda n: ledger(state="failed", **day(n)),
        "one call": lambda n: f"/console/calls/acme/{calls[n % len(calls)]}",
        "one call, an old one": lambda n: f"/console/calls/acme/req_bench_{n * count // ROUNDS + 1:x}",
        "usage": "/console/usage?tenant=acme",
        "usage, 90 days by caller": f"{usage}&by_principal=1",
        "usage, 90 days by team and source": f"{usage}&by_team=1&by_source=1",
        "health": "/console/",
        "sources": "/console/sources",
        "one source": "/console/sources/local",
        "aliases": "/console/aliases",
        "one alias": "/console/aliases/acme/assistant",
        "one alias, compared over a day": "/console/aliases/acme/assistant?compare=1",
        "one alias, compared over 30 days": "/console/aliases/acme/assistant?compare=30",
    }


def timed(browser: Browser, asked: dict[str, str | Callable[[int], str]]) -> Iterator[tuple[str, dict[str, float]]]:
    """Each page after one that does not count."""
    for name, path in asked.items():
        paths = [path if isinstance(path, str) else path(n) for n in range(ROUNDS)]
        browser.ms(paths[0])
        times = sorted(map(browser.ms, paths))
        yield (
            name,
            {"min_ms": round(times[0], 1), "p50_ms": round(times[ROUNDS // 2], 1), "max_ms": round(times[-1], 1)},
        )


def measure(count: int) -> dict[str, Any]:
    """All figures. Takes a home of its own, and removes it."""
    with temporary_home() as home, running(home, demo=True) as demo:
        who = People(demo)
        began = time.monotonic()
        size = fill(demo, who, count)
        filled_s = time.monotonic() - began
        key = demo.key("acme", "rosa-laptop")
        calls = [demo.chat(key, text=f"call {n}").request_id for n in range(CALLS)]
        last = f"/tenants/acme/ledger/calls/{calls[-1]}"
        until(lambda: bool(demo.admin("GET", last).json().get("proofs")), 120, "the last call's proof")
        found = dict(timed(Browser(demo), pages(calls, count)))
    late = sorted(name for name, each in found.items() if each["max_ms"] > TARGET_MS)
    load = round(os.getloadavg()[1], 1)  # what else went on, of `os.cpu_count()` cores
    out = {"entries": count, "database_bytes": size, "filled_s": round(filled_s), "cores": os.cpu_count(), "load": load}
    return {**out, "pages": found, "late": late}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1])), indent=1))
