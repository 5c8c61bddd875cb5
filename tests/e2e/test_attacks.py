"""What somebody tries who has a key, a file or a terminal and means harm."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from interlock.testing.engine import ScriptedEngine

from .documents import MODEL, written
from .stack import Stack, fetch, processes_of, until

HOSTILE = [
    "x'; DROP TABLE tenants; --",
    'x" OR "1"="1',
    "../../etc/passwd",
    "..",
    ".",
    "a/b",
    "a\r\nx-interlock-source: fake",
    "a\nb: c",
    "{{7*7}}",
    "$(touch /tmp/x)",
    "a\x00b",
    "a\u202eb",
    "\ud83d\ude00",
    "x" * 101,
    "",
    " ",
    "-rf",
]

_M = {"name": "m", "abilities": ["chat"]}
_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in pairwise("abcdefghi")
)
"""Nine to the ninth values in half a kilobyte of YAML."""


@pytest.fixture(scope="module")
def globex_admin(demo: Stack) -> Iterator[str]:
    """A key of globex's own administrator, removed again."""
    demo.admin("POST", "/tenants/globex/principals", {"name": "boss", "kind": "user"})
    assert demo.admin("POST", "/tenants/globex/roles", {"principal": "boss", "role": "owner"}).status == 201
    body = {"name": "boss-admin", "principal": "boss", "scopes": ["admin"]}
    yield demo.admin("POST", "/tenants/globex/keys", body).json()["key"]
    assert demo.admin("DELETE", "/tenants/globex/principals/boss").status == 200


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_hostile_names_are_refused_everywhere(demo: Stack, name: str) -> None:
    raw = json.dumps({"name": name}).encode()
    for path in ("/tenants", "/tenants/acme/teams"):
        answer = demo.admin("POST", path, raw)
        assert answer.status == 400, (path, answer)
        assert "Traceback" not in answer.body.decode()
    principal = json.dumps({"name": name, "kind": "user"}).encode()
    assert demo.admin("POST", "/tenants/acme/principals", principal).status == 400
    source = json.dumps({"name": name, "kind": "openai", "url": "http://127.0.0.1:9"}).encode()
    assert demo.admin("POST", "/sources", source).status == 400
    for path in ("/tenants/{}", "/tenants/{}/keys", "/sources/{}", "/tenants/acme/keys/{}"):
        encoded = quote(name.encode("utf-8", "surrogatepass"), safe="")
        if name and name not in (".", ".."):
            answer = demo.admin("GET", path.format(encoded))
            assert answer.status in (400, 404), (path, answer)
            assert set(answer.json()) == {"error"}
    assert demo.admin("GET", "/tenants/acme").status == 200


def test_hostile_model_names_reach_neither_headers_nor_logs_as_they_are(demo: Stack, rosa: str) -> None:
    for name in HOSTILE:
        body = json.dumps({"model": name, "messages": [{"role": "user", "content": "x"}]}).encode()
        answer = fetch(demo.gateway, "/v1/chat/completions", rosa, body)
        assert answer.status in (400, 404), (name, answer)
        assert "fake" not in answer.headers.values()
        assert answer.headers.get("b") is None
    lines = demo.run("ledger", "tail", "--since", "1h").out.splitlines()
    assert lines
    assert all(re.match(r"\d{4}-\d\d-\d\dT", line) for line in lines), "a name made a line of its own"


def test_hostile_cedar_and_yaml(demo: Stack, tmp_path: Path) -> None:
    parameters = {"team": 'x" }; permit(principal, action, resource); //', "models": ['m" || true || "']}
    document: dict[str, Any] = {
        "sources": [{"name": "s", "kind": "openai", "url": "http://127.0.0.1:9", "granted_to": ["*"], "models": [_M]}],
        "tenants": [
            {
                "name": "t",
                "principals": [{"name": "stranger"}],
                "policies": [{"id": "sneaky", "template": "team-may-use-models", "parameters": parameters}],
            }
        ],
    }
    cases = {"cases": [{"tenant": "t", "as": "stranger", "model": "m", "expect": "deny"}]}
    expectations = written(tmp_path, cases, "cases.yaml")
    ran = demo.run("policy", "test", expectations, "-f", written(tmp_path, document))
    assert (ran.code, ran.err) == (0, ""), ran
    for text, words in (
        ("tenants: !!python/object/apply:os.system [touch /tmp/interlock-was-here]", "conf.yaml:1: "),
        (_BOMB, "anchors written out"),
        ("x: " + "[" * 200 + "]" * 200, "nested deeper than"),
        ("tenants: [{name: acme}]\ntenants: [{name: evil}]", "occurs twice"),
        ("\x00\x01", "not valid YAML"),
    ):
        ran = demo.run("plan", "-f", written(tmp_path, text))
        assert (ran.code, ran.out) == (1, ""), text[:40]
        assert words in ran.err, (text[:40], ran.err)
    assert not Path("/tmp/interlock-was-here").exists()


def test_one_tenants_owner_sees_and_moves_nothing_of_another(demo: Stack, globex_admin: str) -> None:
    assert [t["name"] for t in demo.admin("GET", "/tenants", key=globex_admin).json()["items"]] == ["globex"]
    missing = demo.admin("GET", "/tenants/nowhere", key=globex_admin)
    for method, path, body in (
        ("GET", "/tenants/acme", None),
        ("GET", "/tenants/acme/keys", None),
        ("GET", "/tenants/acme/principals", None),
        ("GET", "/tenants/acme/changes", None),
        ("GET", "/tenants/acme/sources", None),
        ("GET", "/export?tenant=acme", None),
        ("POST", "/tenants/acme/keys", {"name": "mine", "principal": "rosa"}),
        ("POST", "/tenants/acme/keys/rosa-laptop/rotate", {"overlap_s": 0}),
        ("POST", "/tenants/acme/keys/rosa-laptop/revoke", {}),
        ("POST", "/tenants/acme/explain", {"principal": "rosa", "model": MODEL}),
        ("DELETE", "/tenants/acme", None),
    ):
        answer = demo.admin(method, path, body, key=globex_admin)
        assert answer.status == missing.status == 404, (method, path, answer)
        assert answer.error["message"].replace("acme", "nowhere") == missing.error["message"]
    acme_id = demo.admin("GET", "/tenants/acme").json()["id"]
    assert demo.admin("GET", f"/tenants/{acme_id}", key=globex_admin).status == 404
    key_id = demo.admin("GET", "/tenants/acme/keys").json()["items"][0]["id"]
    assert demo.admin("POST", f"/tenants/globex/keys/{key_id}/revoke", {}, key=globex_admin).status == 404
    for path, body in (
        ("/sources", {"name": "mine", "kind": "openai", "url": "http://127.0.0.1:9"}),
        ("/sources/local/drain", {}),
        ("/policies", {"id": "mine", "cedar": "permit(principal, action, resource);"}),
        ("/tenants", {"name": "mine"}),
    ):
        assert demo.admin("POST", path, body, key=globex_admin).status in (403, 404), path
    assert demo.ok("source", "show", "local")["drained"] is False
    for path in ("/changes", "/snapshot", "/sources"):
        assert demo.admin("GET", path, key=globex_admin).status == 403, path
    document = json.dumps({"tenants": [{"name": "acme", "teams": [{"name": "research", "cost_center": "mine"}]}]})
    applied = demo.admin("POST", "/apply", {"files": [{"name": "x", "text": document}]}, key=globex_admin)
    assert applied.status in (403, 404)
    role = {"principal": "boss", "role": "owner"}
    assert demo.admin("POST", "/roles", role, key=globex_admin).status in (403, 404, 405)
    assert demo.chat(demo.key("acme", "rosa-laptop"), MODEL, max_tokens=1).status == 200


def test_one_tenants_key_reaches_no_source_of_another(demo: Stack) -> None:
    with ScriptedEngine(kind="vllm", models=(MODEL,)).in_thread() as engine:
        _reach_no_source_of_another(demo, engine.base_url)


def _reach_no_source_of_another(demo: Stack, url: str) -> None:
    own = {"name": "acmes-own", "kind": "vllm", "url": url, "tenant": "acme"}
    assert demo.admin("POST", "/sources", own).status == 201
    rosa, gina = demo.key("acme", "rosa-laptop"), demo.key("globex", "gina-desk")
    pinned = f"acmes-own::{MODEL}"
    try:
        until(lambda: demo.chat(rosa, pinned, max_tokens=1).status == 200, 180, "acme to reach its own source")
        answer = demo.chat(gina, pinned, max_tokens=1)
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
        (refused,) = [r for r in demo.ok_lines("ledger", "tail") if r.get("request_id") == answer.request_id]
        assert (refused["kind"], refused["code"]) == ("Refusal", "model_not_found")
    finally:
        assert demo.admin("DELETE", "/sources/acmes-own").status == 200


def test_oversized_and_broken_admin_bodies(demo: Stack) -> None:
    big = b'{"name": "' + b"x" * 5_000_000 + b'"}'
    assert demo.admin("POST", "/tenants", big).status == 413
    for body in (b"[" * 100_000, b"{", b"\xff\xfe", b'"text"', b'{"name": 1}', b'{"name": "x", "nonsense": 1}'):
        answer = demo.admin("POST", "/tenants", body)
        assert answer.status == 400, body[:20]
        assert "error" in answer.json()
    parts = urlsplit(demo.control)
    with socket.create_connection((parts.hostname or "", parts.port or 0), 60) as raw:
        raw.sendall(
            b"POST /admin/v1/tenants HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
            + f"authorization: Bearer {demo.admin_key}\r\n\r\n".encode()
        )
        said = b""
        try:
            for _ in range(80):
                raw.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            said = raw.recv(4096)
        except OSError:
            pass  # it answered and hung up while we were still sending
    assert b" 200 " not in said
    assert demo.admin("GET", "/tenants/acme").status == 200


def secrets_of(demo: Stack) -> list[str]:
    """Everything that must not be seen anywhere but in its own file."""
    found = [path.read_text().strip() for path in (demo.home / "secrets").iterdir()]
    found += [key for tenant in demo.tenants.values() for key in tenant["keys"].values()]
    return [secret for secret in found if len(secret) >= 16]


def test_no_secret_is_where_others_can_read_it(demo: Stack, rosa: str) -> None:
    demo.chat("il_live_" + "a" * 36, MODEL)
    demo.run("source", "list", environment={"INTERLOCK_ADMIN_KEY": "il_live_" + "b" * 36})
    secrets = secrets_of(demo)
    assert len(secrets) >= 7
    for pid, words in processes_of(demo.home).items():
        assert not any(secret in words for secret in secrets), f"in the arguments of process {pid}"
    logs = (demo.home / "postgres" / "server.log").read_text(errors="replace")
    structured = [line for line in demo.log.read_text().splitlines() if line.startswith("{")]
    assert structured
    for line in [*structured, *logs.splitlines()]:
        assert not any(secret in line for secret in secrets), line
    for path in demo.home.rglob("*"):
        if path.is_file() and path.stat().st_uid == 0 and path.stat().st_mode & 0o077:
            content = path.read_bytes()
            assert not any(secret.encode() in content for secret in secrets), f"{path} may be read by others"
    for path in (demo.home / "node").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret.encode() in content for secret in secrets), path
    answers = [
        demo.admin("GET", path).body.decode()
        for path in ("/changes?limit=500", "/export", "/tenants/acme/keys", "/sources", "/snapshot", "/whoami")
    ]
    answers.append(fetch(demo.gateway, "/metrics").body.decode())
    answers.append(fetch(demo.control, "/metrics").body.decode())
    answers.append(demo.run("ledger", "tail", "--content").out)
    for text in answers:
        assert not any(secret in text for secret in secrets)


def test_no_secret_is_in_the_database(demo: Stack) -> None:
    keys = [key for tenant in demo.tenants.values() for key in tenant["keys"].values()] + [demo.admin_key]
    pepper = (demo.home / "secrets" / "pepper").read_text().strip()
    with psycopg.connect(demo.postgres().superuser_url.replace("/postgres?", "/interlock?")) as conn:
        tables = conn.execute(
            "SELECT schemaname || '.' || quote_ident(tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        assert len(tables) > 10
        for (table,) in tables:
            rows = conn.execute(f"SELECT t::text FROM {table} t").fetchall()
            for (row,) in rows:
                assert pepper not in row, table
                assert not any(key in row for key in keys), table


def test_a_url_with_a_password_is_not_shown(demo: Stack) -> None:
    source = {"name": "wordy", "kind": "openai", "url": "http://user:hunter2hunter2@127.0.0.1:9"}
    answer = demo.admin("POST", "/sources", source)
    if answer.status == 201:
        demo.admin("DELETE", "/sources/wordy")
    assert answer.status == 400
    assert "hunter2" not in demo.log.read_text()


def test_the_gateways_secret_files_cannot_be_a_sources_credential(demo: Stack) -> None:
    for path in (
        "secrets/pepper",
        "secrets/admin_key",
        "secrets/../secrets/postgres_interlock",
        "node/../secrets/pepper",
    ):
        source = {
            "name": "thief",
            "kind": "openai",
            "url": "http://127.0.0.1:9",
            "credential": {"file": str(demo.home / path)},
        }
        answer = demo.admin("POST", "/sources", source)
        if answer.status == 201:
            demo.admin("DELETE", "/sources/thief")
        assert answer.status == 400, path
    source = {
        "name": "thief",
        "kind": "openai",
        "url": "http://127.0.0.1:9",
        "credential": {"env": "INTERLOCK_DATABASE_URL"},
    }
    assert demo.admin("POST", "/sources", source).status == 400
    own = {**source, "tenant": "acme", "credential": {"file": "/etc/passwd"}}
    assert demo.admin("POST", "/sources", own).status == 400
