"""A draft's what-if says exactly what its activation does to the same traffic; a report says it while calls run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .stack import Answer, Stack, fetch, until

PERMIT = {"id": "all", "cedar": 'permit(principal,action in [Action::"infer",Action::"multiply"],resource);'}
DRAFT = [
    {"id": "all", "cedar": 'permit(principal,action==Action::"infer",resource);'},
    {"id": "no-spare", "template": "region-stays-in-region", "parameters": {"regions": ["eu-central"], "teams": ["a"]}},
    {"id": "not-bob", "cedar": 'forbid (principal == User::"bob", action, resource);', "words": "bob may not call"},
    {"id": "small-hours", "cedar": "forbid (principal, action, resource) when { context.data_class >= 2 };"},
]
TENANT = {
    "name": "junction",
    "teams": [{"name": "a"}, {"name": "b"}],
    "principals": [
        {"name": "ann", "teams": ["a"]},
        {"name": "bob", "teams": ["b"]},
        {"name": "robot", "kind": "agent", "teams": ["b"], "may_act_for": ["*"]},
    ],
    "keys": [
        {"name": "ann", "principal": "ann"},
        {"name": "bob", "principal": "bob"},
        {"name": "robot", "principal": "robot", "scopes": ["infer", "assert-user"]},
    ],
    "policies": [PERMIT],
}
AT = "/tenants/junction"
MADE = (200, 400)
"""The second: this engine refuses two answers at once, after the call was permitted and made."""
CALLS: list[tuple[str, str, str, int, str]] = [
    (key, for_whom, data_class, n, model)
    for (key, for_whom), data_class, n, model in itertools.product(
        [("ann", ""), ("bob", ""), ("robot", ""), ("robot", "ann"), ("robot", "bob")],
        ["internal", "confidential"],
        [1, 2],
        ["smollm2", "spare::smollm2"],
    )
    if n == 1 or data_class == "internal"
]


@pytest.fixture(scope="module")
def keys(demo: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A tenant of this test's own, and its keys by name."""
    file: Path = tmp_path_factory.mktemp("policy") / "junction.yaml"
    file.write_text(yaml.safe_dump({"tenants": [TENANT]}))
    made = demo.ok("apply", "-f", str(file))["keys"]["junction"]
    yield made
    assert demo.admin("DELETE", AT).status == 200


def run(demo: Stack, keys: dict[str, str]) -> list[Answer]:
    """The traffic, once."""
    answers = []
    for key, for_whom, data_class, n, model in CALLS:
        headers = {"x-interlock-data-class": data_class}
        if for_whom:
            headers["x-interlock-assert-user"] = for_whom
        body = {"model": model, "max_tokens": 1, "n": n, "messages": [{"role": "user", "content": "Go."}]}
        answers.append(fetch(demo.gateway, "/v1/chat/completions", keys[key], body, headers=headers))
        assert answers[-1].status in (*MADE, 403, 404), answers[-1].body
    return answers


def logged(demo: Stack, answers: list[Answer]) -> None:
    """Wait until the ledger has every call."""
    wanted = {answer.request_id for answer in answers}

    def there() -> bool:
        found = demo.ok("ledger", "search", "-t", "junction", "--limit", "200")["items"]
        return wanted <= {item["leaf"]["request"] for item in found}

    until(there, 180, "the ledger to have every call", every_s=0.5)


def decided(demo: Stack, answer: Answer) -> tuple[str, ...]:
    """The offers that a call might go to, as its record has them."""
    found = demo.admin("GET", f"{AT}/ledger/calls/{answer.request_id}?content=true").json()
    (record, *_) = found["contents"]["record"]
    return tuple(reason[0] for reason in _permits(record))


def _permits(record: list[Any]) -> list[Any]:
    """Of an Intent (tag 2) or a Refusal (tag 3), as JSON arrays."""
    permits: list[Any] = record[17] if record[0] == 2 else record[26]
    return permits


def test_what_if_says_exactly_what_activation_does(demo: Stack, keys: dict[str, str]) -> None:
    demo.everywhere(
        lambda: fetch(demo.gateway, "/v1/models", keys["ann"]).status == 200, "the gateway to know the tenant"
    )
    demo.admin("POST", "/roles", {"principal": "admin", "role": "payload_reader"})
    try:
        _exactly(demo, keys)
    finally:
        assert demo.admin("DELETE", "/roles/admin:payload_reader").status == 200


def _exactly(demo: Stack, keys: dict[str, str]) -> None:
    first = run(demo, keys)
    logged(demo, first)
    before = [decided(demo, answer) for answer in first]
    draft = demo.admin("PUT", f"{AT}/policy-draft", {"policies": DRAFT}).json()
    said = demo.ok("policy", "what-if", "--draft", "-t", "junction", "--examples", "1000")
    calls = said["traffic"]
    assert (calls["calls"], calls["whole"], calls["unknown"], calls["undecided"]) == (len(CALLS), True, 0, 0)
    changed = {call["request"]: call for call in calls["examples"]}
    assert calls["same"] + calls["denied"] + calls["permitted"] + calls["other"] == len(CALLS)
    assert all(calls[how] for how in ("same", "denied", "other"))
    for answer, offers in zip(first, before, strict=True):
        if answer.request_id in changed:
            assert tuple(changed[answer.request_id]["before"]) == offers
    predicted = [
        tuple(changed[a.request_id]["after"]) if a.request_id in changed else offers
        for a, offers in zip(first, before, strict=True)
    ]
    # the report says the same of the same calls while nothing is decided by the draft
    assert demo.admin("POST", f"{AT}/policy-draft/report-only", {}).status == 200
    demo.everywhere(lambda: _tried(demo, keys), "the draft to report")
    trial = run(demo, keys)
    assert [a.status for a in trial] == [a.status for a in first], "what only reports decides nothing"
    logged(demo, trial)
    reported = demo.ok("policy", "report", "-t", "junction", "--examples", "1000")
    would = {call["request"]: tuple(call["allowed"]) for call in reported["examples"]}
    for answer, offers, now in zip(trial, predicted, before, strict=True):
        assert would.get(answer.request_id, now) == offers
    replayed = demo.ok("ledger", "replay", trial[0].request_id, "-t", "junction")
    assert replayed["same"]
    # and so it is
    demo.ok("policy", "activate", draft["digest"], "-t", "junction")
    demo.everywhere(lambda: _call(demo, keys["bob"]).status != 200, "the gateway to follow")
    second = run(demo, keys)
    logged(demo, second)
    assert [decided(demo, answer) for answer in second] == predicted
    assert [a.status in MADE for a in second] == [bool(offers) for offers in predicted]
    cells = said["matrix"]
    assert cells["whole"] and cells["denied"] and not cells["permitted"]
    assert {"robot"} == {c["principal"] for c in cells["examples"] if c["acting_for"]}


def _call(demo: Stack, key: str) -> Answer:
    body = {"model": "smollm2", "max_tokens": 1, "messages": [{"role": "user", "content": "Go."}]}
    return fetch(demo.gateway, "/v1/chat/completions", key, body)


def _tried(demo: Stack, keys: dict[str, str]) -> bool:
    """Whether a worker evaluates the draft by now."""
    for _ in range(8):
        _call(demo, keys["ann"])
    return "interlock_policy_trials_total{" in fetch(demo.gateway, "/metrics").body.decode()
