"""`interlock doctor` on a running installation: nothing wrong, then one planted fault after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg

from tests.engines import Engine, llamacpp
from tests.ports import free_port

from .stack import Stack, command

__all__ = ["llamacpp"]


def wrong(said: dict[str, Any]) -> set[str]:
    """Names of the checks that found something wrong."""
    return {f["check"] for f in said["findings"] if f["level"] == "wrong"}


def words(said: dict[str, Any], check: str) -> str:
    return " ".join(f["words"] for f in said["findings"] if f["check"] == check)


def doctor(demo: Stack, code: int, **environment: str) -> dict[str, Any]:
    ran = demo.run("doctor", "--json", environment=environment)
    assert ran.code == code, ran
    said: dict[str, Any] = ran.json()
    assert said["ok"] is (code == 0)
    return said


@contextlib.contextmanager
def stored(demo: Stack, statement: str, undo: str) -> Iterator[None]:
    """Something in the database that no API would write."""
    url = demo.postgres().superuser_url
    with psycopg.connect(url, autocommit=True, dbname="interlock") as conn:
        conn.execute(statement)
        try:
            yield
        finally:
            conn.execute(undo)


def test_the_demo_is_sound_and_told_to_be_one(demo: Stack) -> None:
    said = doctor(demo, 0)
    assert said["checked"] == {"admin_api": True, "machine": True}
    assert {"demo_keys", "key_without_end"} <= {f["check"] for f in said["findings"]}
    text = demo.run("doctor").out
    assert text.splitlines()[-1].startswith("Nothing is wrong")


def test_a_source_that_answers_whoever_asks_is_found(demo: Stack, llamacpp: Engine) -> None:
    spec = {"name": "open", "kind": "llamacpp", "url": llamacpp.base_url}
    assert demo.admin("POST", "/sources", spec).status == 201
    try:
        said = doctor(demo, 3)
        assert wrong(said) == {"open_source"} and "source open at" in words(said, "open_source")
        assert "open_source" in demo.run("doctor").out
        # a credential in its declaration does not close an engine that does not ask for it
        key = demo.home / "credentials-of-open"
        key.write_text("a-key")
        demo.admin("PUT", "/sources/open", {**spec, "credential": {"file": str(key)}})
        assert wrong(doctor(demo, 3)) == {"open_source"}
    finally:
        demo.admin("DELETE", "/sources/open")


def test_what_is_planted_is_found(demo: Stack) -> None:
    pepper = demo.home / "secrets" / "pepper"
    pepper.chmod(0o644)
    try:
        said = doctor(demo, 3)
        assert wrong(said) == {"file_mode"} and str(pepper) in words(said, "file_mode")
    finally:
        pepper.chmod(0o600)
    public = {"INTERLOCK_GATEWAY_HOST": "0.0.0.0"}
    assert wrong(doctor(demo, 3, **public)) == {"gateway_tls", "gateway_metrics", "demo_keys"}
    bad = {"INTERLOCK_TLS_CERT_FILE": str(pepper), "INTERLOCK_TLS_KEY_FILE": str(pepper)}
    assert wrong(doctor(demo, 3, **bad)) == {"certificate"}
    assert wrong(doctor(demo, 3, INTERLOCK_LOG_DISK_FREE_BYTES_MIN=str(1 << 60))) == {"disk_full"}

    closed = f"http://127.0.0.1:{free_port()}"
    demo.admin("POST", "/sources", {"name": "gone", "kind": "vllm", "url": closed, "granted_to": ["acme"]})
    issuer = {"issuer": "https://id.example", "jwks_url": f"{closed}/keys", "audience": "interlock"}
    made = demo.admin("POST", "/tenants/acme/issuers", issuer)
    assert made.status == 201, made.body
    try:
        said = doctor(demo, 3)
        assert wrong(said) == {"source_failing", "issuer"}
        assert "id.example" in words(said, "issuer")
    finally:
        demo.admin("DELETE", "/tenants/acme/issuers/https://id.example")
        demo.admin("DELETE", "/sources/gone")

    row = "'ghost', 1, 1, now() + interval '9 min', now(), '0.0.9', '', now()"
    columns = "name, workers, snapshot_version, seen_at, started_at, version, address, stored_at"
    insert = f"INSERT INTO interlock.nodes ({columns}) VALUES ({row})"
    with stored(demo, insert, "DELETE FROM interlock.nodes WHERE name = 'ghost'"):
        said = doctor(demo, 3)
        assert {"clock", "node_version"} <= wrong(said) <= {"clock", "node_version", "node_behind"}
        assert "ghost is 540.0 s ahead" in words(said, "clock")
    assert wrong(doctor(demo, 0)) == set()


def test_it_works_from_afar_and_says_when_it_could_not_ask(demo: Stack, rosa: str) -> None:
    far = {"INTERLOCK_CONTROL_URL": demo.control, "INTERLOCK_ADMIN_KEY": demo.admin_key}
    ran = command("doctor", "--json", "--home", "/nonexistent", environment=far)
    assert ran.code == 0 and ran.json()["checked"] == {"admin_api": True, "machine": False}
    ran = demo.run("doctor", "--json", environment={"INTERLOCK_CONTROL_URL": f"http://127.0.0.1:{free_port()}"})
    assert ran.code == 3 and ran.json()["checked"] == {"admin_api": False, "machine": True}
    assert wrong(ran.json()) == {"control"}
    # what is weak is not for everybody
    assert demo.admin("GET", "/diagnosis", key=rosa).status in (401, 403)
    assert demo.anonymous("/diagnosis").status == 401
    text = demo.admin("GET", "/diagnosis").body.decode()
    assert demo.admin_key not in text and (demo.home / "demo" / "engine_key").read_text().strip() not in text
