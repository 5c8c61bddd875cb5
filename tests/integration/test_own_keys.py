"""Keys that people make for themselves: whose they are, how many, for how long, and what they may not become."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .control_client import Admin, Running, control_over

TENANTS = """
tenants:
  - name: acme
    principals: [{name: dev, kind: user}, {name: see, kind: user}, {name: other, kind: user}]
    keys:
      - {name: dev-admin, principal: dev, scopes: [admin]}
      - {name: see-admin, principal: see, scopes: [admin]}
      - {name: others, principal: other}
    roles: [{principal: dev, role: developer}, {principal: see, role: viewer}]
"""


@pytest.fixture(scope="module")
def keys(postgres_url: str) -> Iterator[tuple[Running, dict[str, Admin]]]:
    with control_over(postgres_url) as running:
        made = running.owner.apply(TENANTS)["keys"]["acme"]
        yield running, {name: running.as_(key) for name, key in made.items()}


def test_a_developer_makes_keys_for_inference_up_to_a_number_and_a_time(
    keys: tuple[Running, dict[str, Admin]],
) -> None:
    running, clients = keys
    dev, settings = clients["dev-admin"], running.control.settings
    for days in (0, settings.own_key_days_max + 1):
        assert dev.call("POST", "/my/keys", {"name": "mine", "expires_in_days": days})[0] == 400
    status, made = dev.call("POST", "/my/keys", {"name": "mine", "expires_in_days": settings.own_key_days_max})
    assert status == 201
    item = made["item"]
    assert (item["principal"], item["scopes"], item["state"]) == ("dev", ["infer"], "active")
    assert item["expires_at"] is not None
    asked = {"name": "more", "expires_in_days": 1, "scopes": ["admin"]}
    assert dev.call("POST", "/my/keys", asked)[0] == 400, "scopes are not for choosing"
    for number in range(settings.own_keys_max - 2):  # one is `mine`, one the key that this is asked with
        assert dev.call("POST", "/my/keys", {"name": f"n{number}", "expires_in_days": 1})[0] == 201
    status, full = dev.call("POST", "/my/keys", {"name": "one-too-many", "expires_in_days": 1})
    assert (status, full["error"]["code"]) == (409, "too_many_keys")
    assert dev.call("POST", "/my/keys/mine/revoke", {})[0] == 200
    assert dev.call("POST", "/my/keys", {"name": "again", "expires_in_days": 1})[0] == 201
    shown = {key["name"]: key["state"] for key in dev.get("/my/keys")["items"]}
    assert shown["mine"] == "revoked" and "others" not in shown


def test_nobody_elses_key_and_not_for_a_viewer(keys: tuple[Running, dict[str, Admin]]) -> None:
    _, clients = keys
    assert clients["dev-admin"].call("POST", "/my/keys/others/revoke", {})[0] == 404
    assert clients["see-admin"].call("POST", "/my/keys", {"name": "v", "expires_in_days": 1})[0] == 403
    assert clients["see-admin"].call("GET", "/my/keys")[0] == 403
