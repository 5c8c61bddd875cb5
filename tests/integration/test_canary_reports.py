"""What the control plane makes of nodes' reports of canaries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from interlock.storage import roles
from tests.integration.control_client import Running, control_over


@pytest.fixture(scope="module")
def api(postgres_url: str) -> Iterator[Running]:
    with control_over(postgres_url) as running:
        yield running


def report(url: str, canary: str, tenant_id: str, alias: str, node: str = "north") -> None:
    with psycopg.connect(url) as conn:
        conn.execute("SELECT set_config('role', %s, true)", (roles.LENDER,))
        conn.execute(
            "INSERT INTO interlock.canary_reports (canary, node, tenant_id, alias, at_ns, words)"
            " VALUES (%s, %s, nullif(%s, ''), %s, %s, '4 of 4 calls failed')",
            (canary, node, tenant_id, alias, 1_800_000_000_000_000_000),
        )


def spec(**canary: Any) -> dict[str, Any]:
    return {"name": "a", "targets": [{"model": "old"}], "canary": {"model": "new", "share_milli": 50, **canary}}


def test_a_report_ends_the_trial_that_it_is_about_and_no_other(api: Running, postgres_url: str) -> None:
    owner, watch = api.owner, api.control.canaries
    owner.do("POST", "/tenants", {"name": "acme"})
    tenant_id = owner.get("/tenants/acme")["id"]
    first = owner.do("POST", "/tenants/acme/aliases", spec())["item"]["canary_state"]["id"]
    owner.do("POST", "/aliases", spec())
    other = owner.do("PUT", "/tenants/acme/aliases/a", {**spec(), "max_tokens": 7})["item"]
    assert other["canary_state"]["id"] == first, "another field is no other trial"
    second = owner.do("PUT", "/tenants/acme/aliases/a", spec(calls_min=9))["item"]["canary_state"]["id"]
    assert second != first
    report(postgres_url, first, tenant_id, "a")
    report(postgres_url, "can_nowhere", tenant_id, "gone")
    assert watch.once() == 0
    assert owner.get("/tenants/acme/aliases/a")["canary_state"]["state"] == "running"
    for node in ("north", "south"):
        report(postgres_url, second, tenant_id, "a", node)
    assert watch.once() == 1 and watch.once() == 0
    state = owner.get("/tenants/acme/aliases/a")["canary_state"]
    assert (state["state"], state["why"]) == ("failed", "4 of 4 calls failed (node north)")
    assert owner.get("/aliases/a")["canary_state"]["state"] == "running"
    for again in (spec(calls_min=9), {**spec(calls_min=9), "max_tokens": 3}):
        same = owner.do("PUT", "/tenants/acme/aliases/a", again)["item"]["canary_state"]
        assert same == state, "declared once more it stays what it is"
    changes = [c["action"] for c in owner.get("/tenants/acme/changes")["items"]]
    assert changes.count("alias.canary_failed") == 1
    report(postgres_url, owner.get("/aliases/a")["canary_state"]["id"], "", "a")
    assert watch.once() == 1
    assert owner.get("/aliases/a")["canary_state"]["state"] == "failed"
