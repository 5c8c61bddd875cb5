"""Requests for more of a budget over a real database: who may ask, who may approve, and what an approval does once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from .control_client import Admin, Running, control_over

TENANTS = """
tenants:
  - name: acme
    principals: [{name: dev, kind: user}, {name: ada, kind: user}, {name: vic, kind: user}]
    keys:
      - {name: dev, principal: dev, scopes: [admin]}
      - {name: ada, principal: ada, scopes: [admin]}
      - {name: vic, principal: vic, scopes: [admin]}
    roles:
      - {principal: dev, role: developer}
      - {principal: ada, role: admin}
      - {principal: vic, role: viewer}
    budgets: [{name: month, principal: dev, usd: 5}]
  - name: globex
    principals: [{name: gus, kind: user}]
    keys: [{name: gus, principal: gus, scopes: [admin]}]
    roles: [{principal: gus, role: owner}]
"""
AT = "/tenants/acme/quota-requests"
MORE = {"budget": "month", "amount": 8_000_000_000}


@pytest.fixture(scope="module")
def whole(postgres_url: str) -> Iterator[tuple[Running, dict[str, Admin]]]:
    with control_over(postgres_url, quota_requests_open_max=2) as running:
        made = running.owner.apply(TENANTS)["keys"]
        yield running, {name: running.as_(key) for keys in made.values() for name, key in keys.items()}


@pytest.fixture
def people(whole: tuple[Running, dict[str, Admin]]) -> Iterator[dict[str, Admin]]:
    """Everybody, with the budget as it is declared and no open request."""
    running, people = whole
    running.owner.do("PUT", "/tenants/acme/budgets/month", {"name": "month", "principal": "dev", "usd": 5})
    yield people
    for each in running.owner.get(AT):
        if each["state"] == "open":
            running.owner.do("POST", f"{AT}/{each['id']}/refuse")


def test_an_approval_changes_the_budget_and_is_of_somebody_else(people: dict[str, Admin]) -> None:
    asked = people["dev"].do("POST", AT, MORE)
    assert (asked["asker"], asked["now"], asked["wanted"], asked["state"]) == (
        "dev", 5_000_000_000, 8_000_000_000, "open",
    )  # fmt: skip
    assert people["dev"].call("POST", f"{AT}/{asked['id']}/approve", {})[0] == 403
    assert people["vic"].call("POST", f"{AT}/{asked['id']}/approve", {})[0] == 403
    done = people["ada"].do("POST", f"{AT}/{asked['id']}/approve")
    assert (done["state"], done["decider"], done["now"]) == ("approved", "ada", 8_000_000_000)
    assert people["ada"].get("/tenants/acme/budgets/month")["usd"] in ("8", 8)
    again = people["ada"].call("POST", f"{AT}/{asked['id']}/approve", {})
    assert again[0] == 409 and "approved already" in again[1]["error"]["message"]


def test_nobody_approves_their_own(people: dict[str, Admin]) -> None:
    asked = people["ada"].do("POST", AT, MORE)
    status, answer = people["ada"].call("POST", f"{AT}/{asked['id']}/approve", {})
    assert (status, answer["error"]["code"]) == (403, "own_request")
    assert people["ada"].get("/tenants/acme/budgets/month")["usd"] in ("5", 5)
    assert people["ada"].do("POST", f"{AT}/{asked['id']}/withdraw")["state"] == "withdrawn"


def test_what_cannot_be_asked(people: dict[str, Admin]) -> None:
    assert people["dev"].call("POST", AT, {"budget": "month", "amount": 5_000_000_000})[0] == 400
    assert people["dev"].call("POST", AT, {"budget": "nowhere", "amount": 5})[0] == 404
    assert people["dev"].call("POST", AT, {"budget": "month", "amount": -1})[0] == 400
    assert people["vic"].call("POST", AT, MORE)[0] == 403
    assert people["dev"].call("POST", AT, MORE, reason="")[0] == 400
    for amount in (8_000_000_000, 9_000_000_000):
        people["dev"].do("POST", AT, {"budget": "month", "amount": amount})
    assert people["dev"].call("POST", AT, MORE)[0] == 409


def test_another_tenant_sees_and_decides_nothing(
    people: dict[str, Admin], whole: tuple[Running, dict[str, Admin]]
) -> None:
    asked = people["dev"].do("POST", AT, MORE)
    gus = people["gus"]
    assert gus.call("GET", AT)[0] in (403, 404)
    for place in ("acme", "globex"):
        for verb in ("approve", "refuse", "withdraw"):
            path = f"/tenants/{place}/quota-requests/{asked['id']}/{verb}"
            assert gus.call("POST", path, {})[0] in (403, 404), path
    elsewhere = f"/tenants/platform/quota-requests/{asked['id']}/refuse"
    assert whole[0].owner.call("POST", elsewhere, {})[0] == 404, "not under another tenant's name either"
    assert people["vic"].get(AT)[0]["state"] == "open"
    assert people["ada"].call("POST", f"{AT}/{asked['id']}/withdraw", {})[0] == 404, "it is not hers"


def test_of_two_who_decide_at_once_one_does(people: dict[str, Admin], whole: tuple[Running, dict[str, Admin]]) -> None:
    asked = people["dev"].do("POST", AT, MORE)
    answers: list[int] = []

    def decide(who: Admin, verb: str) -> None:
        answers.append(who.call("POST", f"{AT}/{asked['id']}/{verb}", {})[0])

    threads = [
        threading.Thread(target=decide, args=(who, verb))
        for who, verb in ((people["ada"], "approve"), (whole[0].owner, "refuse"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == [200, 409]
