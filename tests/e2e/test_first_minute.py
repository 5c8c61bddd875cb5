"""The three calls that `interlock up --demo` suggests, and what they promise."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.figures import note

from .stack import Answer, Stack, until

MODEL = "smollm2"
CALLS = 4


def at_once(demo: Stack, key: str) -> list[Answer]:
    with ThreadPoolExecutor(CALLS) as pool:
        return list(pool.map(lambda i: demo.chat(key, MODEL, f"Tell me story {i}.", max_tokens=24), range(CALLS)))


def test_it_was_said_on_the_terminal(demo: Stack, rosa: str) -> None:
    words = demo.log.read_text()
    assert f"{demo.gateway}/v1/chat/completions -H 'authorization: Bearer {rosa}'" in words
    assert f"interlock ledger tail --home {demo.home}" in words


def test_a_permitted_call(demo: Stack, rosa: str) -> None:
    answer = demo.chat(rosa)
    assert answer.status == 200
    assert answer.headers["x-interlock-source"] == "local"
    assert answer.headers["x-interlock-model"] == MODEL
    assert "offer=local::smollm2" in answer.headers["x-interlock-decision"]
    assert answer.json()["choices"][0]["message"]["content"]


def test_a_denied_call_says_why(demo: Stack) -> None:
    answer = demo.chat(demo.key("acme", "felix-laptop"), f"spare::{MODEL}")
    assert answer.status == 403
    assert answer.headers["x-should-retry"] == "false"
    assert "base/data-class (a source never sees data above the class it is labelled for)" in answer.error["message"]
    assert answer.request_id in {r["request_id"] for r in demo.ok_lines("ledger", "tail") if r["kind"] == "Refusal"}


def at_local(demo: Stack, key: str) -> Answer | None:
    """The answer of a call that went to `local`."""
    answer = demo.chat(key, MODEL, max_tokens=1)
    return answer if answer.headers["x-interlock-source"] == "local" else None


def test_overflow_and_return(demo: Stack, rosa: str) -> None:
    answers = at_once(demo, rosa)
    assert {a.status for a in answers} == {200}
    by_source: dict[str, list[str]] = {}
    for answer in answers:
        by_source.setdefault(answer.headers["x-interlock-source"], []).append(answer.headers["x-interlock-decision"])
    assert set(by_source) == {"local", "spare"}
    assert all("overflow" in decision for decision in by_source["spare"])
    assert all("overflow" not in decision for decision in by_source["local"])
    answer = until(lambda: at_local(demo, rosa), 120, "calls to come back")
    assert answer is not None
    assert "overflow" not in answer.headers["x-interlock-decision"]
    note(f"overflow: of {CALLS} calls at once {len(by_source['spare'])} went to `spare`, then back to `local`")


def test_who_is_bound_to_a_region_never_overflows(demo: Stack) -> None:
    answers = at_once(demo, demo.key("globex", "gina-desk"))
    assert {a.status for a in answers} == {200}
    assert {a.headers["x-interlock-source"] for a in answers} == {"local"}
    answer = demo.chat(demo.key("globex", "gina-desk"), f"spare::{MODEL}")
    assert answer.status == 404, "what a caller may not even list is not there"
    (refused,) = [r for r in demo.ok_lines("ledger", "tail") if r.get("request_id") == answer.request_id]
    assert "stay-in-europe" in str(refused)
