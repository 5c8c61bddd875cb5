"""What other policies would decide: for everybody, and for logged calls, each with who it acts for."""

from __future__ import annotations

from typing import Any

import msgspec

from interlock.control.whatif import Comparison, Ground, Matrix, compare, matrix
from interlock.types.decision import RouteDecision
from interlock.types.identity import DataClass, Principal
from interlock.types.record import Intent, Party, Refusal
from interlock.types.request import Features, Target
from tests.unit.policy.acme import ACME, ALICE, BOB, BOT, CLOUD, FOREIGN, LOCAL, OPS, OTHER, RESEARCH, written

NOW = written("all", 'permit (principal, action in [Action::"infer", Action::"multiply"], resource);')
PLAIN = written("all", 'permit (principal, action == Action::"infer", resource);')
NOT_ALICE = written("not-alice", 'forbid (principal == User::"alice", action, resource);')
NO_CLOUD = written("no-cloud", "forbid (principal, action, resource) unless { resource.on_prem };")
ROBOT = msgspec.structs.replace(BOT, may_act_for=(ALICE.id,))


def ground(*people: Principal) -> Ground:
    sources = (LOCAL, CLOUD, FOREIGN)
    return Ground((ACME, OTHER), (RESEARCH, OPS), sources, (), (NOW,), {p.id: p for p in people}, 0)


def cells(there: Ground, *policies: Any, cells_max: int = 10_000, examples_max: int = 1000) -> Matrix:
    now, then = there.engine(there.policies), there.with_policies("", policies)
    return matrix(there, now, then, cells_max=cells_max, examples_max=examples_max)


def intent(who: Principal, for_whom: Principal | None = None, model: str = "large", **features: Any) -> Intent:
    parties = [Party(p.id, p.kind, p.name, p.team_ids) for p in (who, for_whom) if p is not None]
    return Intent(
        1,
        0,
        0,
        ACME.id,
        "",
        who.id,
        who.kind,
        for_whom.id if for_whom else "",
        "",
        "api_key",
        "",
        "openai",
        Features("chat", model, DataClass.internal, **features),
        Target("model", model),
        1,
        b"",
        (),
        RouteDecision("balanced", (), (), (), 0, 0),
        {},
        b"",
        b"",
        0,
        parties=tuple(parties),
    )


def test_everybody_with_whom_they_act_for_and_each_action_is_compared() -> None:
    there = ground(ALICE, BOB, ROBOT)
    found = cells(there, NOW, NOT_ALICE)
    # acme sees four offers; alice, bob, the robot, and the robot for alice; four classes; seven actions
    assert (found.cells, found.whole, found.permitted) == (4 * 4 * 4 * 7, True, 0)
    assert {(c.principal, c.acting_for) for c in found.examples} == {("alice", ""), ("bot", "alice")}
    assert {c.action for c in found.examples} == {"infer", "multiply"}
    assert {c.becomes for c in found.examples} == {"denied"} and found.denied == len(found.examples)
    assert all(c.policy_ids == ("not-alice",) for c in found.examples)
    only_fields = cells(there, PLAIN)
    assert {c.action for c in only_fields.examples} == {"multiply"} and only_fields.denied
    back = ground(ALICE)
    now, then = back.with_policies("", [NOT_ALICE]), back.engine(back.policies)
    assert matrix(back, now, then, cells_max=1000, examples_max=1).permitted > 1
    assert cells(there, NOW) == Matrix(found.cells, True, 0, 0, ())


def test_callers_that_no_policy_tells_apart_are_decided_once_and_counted_each() -> None:
    crowd = [msgspec.structs.replace(BOB, id=f"prn_{i}", name=f"b{i}") for i in range(50)]
    found = cells(ground(ALICE, *crowd), NOW, NO_CLOUD, cells_max=500)
    assert (found.whole, found.cells) == (True, 51 * 4 * 4 * 7)
    assert {(c.principal, c.alike) for c in found.examples} == {("alice", 1), ("b0", 50)}
    named = written("b7", 'forbid (principal, action, resource) when { principal == User::"b7" };')
    assert {(c.principal, c.alike) for c in cells(ground(*crowd), NOW, named).examples} == {("b7", 1)}
    few = cells(ground(*crowd), NOW, named, cells_max=4 * 4 * 7 * 2)
    assert (few.whole, few.cells) == (True, 50 * 4 * 4 * 7), "those it does not name are still alike"
    by_name = written("like", 'forbid (principal, action, resource) when { principal.name like "*9" };')
    assert {c.principal for c in cells(ground(*crowd), NOW, by_name).examples} == {"b9", "b19", "b29", "b39", "b49"}
    hidden = 'forbid (principal, action, resource) when { (if true then principal else principal).name like "*9" };'
    assert len({c.principal for c in cells(ground(*crowd), NOW, written("h", hidden)).examples}) == 5
    escaped = written("esc", 'forbid (principal == User::"\\u{62}7", action, resource);')
    assert {c.principal for c in cells(ground(*crowd), NOW, escaped).examples} == {"b7"}


def test_what_is_left_out_is_told() -> None:
    found = cells(ground(ALICE, BOB), NO_CLOUD, cells_max=10, examples_max=1)
    assert not found.whole and 0 < found.cells <= 10
    inactive = msgspec.structs.replace(BOB, active=False)
    assert cells(ground(inactive), NOW).cells == 0


def compared(there: Ground, calls: list[Any], *policies: Any, most: int = 100) -> Any:
    into = Comparison(there, there.engine(there.policies), there.with_policies("", policies), 100)
    listed = [(i, f"req_{i}", call) for i, call in enumerate(calls)]

    def read(before: int, limit: int) -> Any:
        return [each for each in reversed(listed) if before == 0 or each[0] < before][:limit]

    return into.result(whole=compare(into, read, most))


def test_logged_calls_are_decided_with_whom_they_acted_for() -> None:
    there = ground(ALICE, BOB, ROBOT)
    found = compared(there, [intent(ROBOT, ALICE), intent(ROBOT), intent(ALICE), intent(BOB)], NOW, NOT_ALICE)
    assert (found.calls, found.denied, found.same, found.whole) == (4, 2, 2, True)
    assert found.by == {"bot for alice": 1, "alice": 1}
    delegated = next(c for c in found.examples if c.acting_for)
    assert delegated.after == () and delegated.before == ("local::large", "cloud::large")
    assert delegated.policy_ids == ("not-alice",)


def test_other_offers_are_told_apart_from_none() -> None:
    found = compared(ground(ALICE), [intent(ALICE), intent(ALICE, model="small")], NOW, NO_CLOUD)
    assert (found.other, found.same, found.denied) == (1, 1, 0)
    (example,) = found.examples
    assert (example.becomes, example.after) == ("other", ("local::large",)) and len(example.why) == 1


def test_a_declared_caller_is_taken_as_it_is_now_and_another_as_recorded() -> None:
    moved = msgspec.structs.replace(ALICE, team_ids=(OPS.id,))
    ops_only = written("ops", 'permit (principal in Team::"ops", action, resource);')
    assert compared(ground(moved), [intent(ALICE)], ops_only).same == 1
    stranger = compared(ground(), [intent(ALICE)], ops_only)
    assert stranger.denied == 1
    # what a caller by token is called is a content of the ledger: its id is told, and no sentence that names it
    assert "alice" not in str(stranger).replace(ALICE.id, "")
    assert stranger.by == {ALICE.id: 1} and stranger.examples[0].why == ()
    assert compared(ground(BOB), [intent(BOT, BOB)], ops_only).same == 1


def test_what_cannot_be_compared_is_counted() -> None:
    refusal = Refusal(1, 0, ACME.id, "", ALICE.id, "", "api_key", "", "openai", "chat", "", 1, 1, 400, "bad", "")
    found = compared(ground(ALICE), [None, refusal, intent(ALICE)], NOW)
    assert (found.calls, found.unknown, found.undecided, found.same) == (3, 1, 1, 1)
    few = compared(ground(ALICE), [intent(ALICE)] * 3, NOW, most=2)
    assert (few.calls, few.whole) == (2, False)
    assert compared(ground(ALICE), [], NOW).whole
