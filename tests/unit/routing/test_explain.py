"""The decision in words, as a header, and replayed from its record."""

from __future__ import annotations

import msgspec

from interlock.routing.choose import decide
from interlock.routing.explain import explain, explain_call, header, reading_words
from interlock.routing.replay import replay
from interlock.types.decision import Placement, Reason, RouteDecision
from interlock.types.record import Attempt, AttemptEnd, Intent, Outcome
from interlock.types.request import Features, Target
from interlock.types.source import LoadReading, Model, Offer, loaded_bit
from interlock.types.usage import Usage

from .samples import features, idle, offers, priced, queue, source

MODEL = Target(kind="model", model="m")


def intent_of(route: RouteDecision, asked: Features, target: Target, permits: tuple[Reason, ...] = ()) -> Intent:
    return Intent(
        call=1,
        wall_ns=0,
        mono_ns=0,
        tenant_id="t",
        team_id="",
        principal_id="p",
        principal_kind="user",
        delegator_id="",
        delegation="",
        auth_method="api_key",
        credential_id="k",
        dialect="openai",
        features=asked,
        target=target,
        snapshot_version=1,
        snapshot_root=b"",
        permits=permits,
        route=route,
        parameters={},
        body_sha256=b"",
        body=b"",
        reserved_tokens=0,
    )


def busy_case() -> tuple[RouteDecision, tuple[Offer, ...]]:
    among = offers(source("home", "m"), source("cloud", priced("m", 3)), source("blind", Model(name="m", abilities=())))
    broken = offers(source("broken", "m"))
    decision = decide(
        features(),
        MODEL,
        among + broken,
        {"src_home": queue(12), "src_cloud": idle()},
        open_breakers={"src_broken"},
        latencies={"cloud::m": 117_647},
        seed=31,
    )
    return decision, among + broken


def test_the_header_says_what_was_chosen() -> None:
    decision, _ = busy_case()
    score = decision.candidates[0].score_micro / 1e6
    assert header(decision, 0) == (f"offer=cloud::m; mode=balanced; score={score:.3f}; rank=1/2; overflow; router=0")
    assert "overflow" not in header(decision, 1) and "rank=2/2" in header(decision, 1)


def test_the_header_is_printable_ascii() -> None:
    among = offers(source("bü\r\nx", "m\x7f"))
    value = header(decide(features(), MODEL, among, {}), 0)
    assert value.isascii() and value.isprintable() and "offer=b???x::m?" in value


def test_every_candidate_and_every_rejection_is_explained() -> None:
    decision, _ = busy_case()
    told = explain(MODEL, "m", decision)
    text = "\n".join(told.lines())
    assert "cloud::m was chosen" in told.chosen and "excess of a saturated one" in told.chosen
    assert "overflow: a preferred source is saturated" in told.order[0]
    assert "behind because its source is saturated" in told.order[1]
    assert [r.split(":")[0] for r in told.rejected] == ["blind", "broken"]
    assert "failed repeatedly" in text and "12 waiting" in text and "load unknown" in text
    named = explain(MODEL, "m", decision, names={"src_cloud": "cloud"})
    assert {"cloud", "src_blind"} <= {r.split(":")[0] for r in named.readings}, "by id only when it has no name"


def test_each_kind_of_target_is_told() -> None:
    decision, _ = busy_case()
    cases = {
        Target(kind="pin", model="m", source="s"): "at s only",
        Target(kind="auto"): "any model that policy allows",
        Target(kind="alias", alias="a"): "The alias 'a' stands for any",
        Target(kind="alias", alias="a", model="m", source="s"): "The alias 'a' drew m at s",
        Target(kind="model", model="m", version="v1"): "m version v1",
    }
    for target, words in cases.items():
        assert words in explain(target, "asked", decision).asked


def test_attempts_are_told_from_the_records() -> None:
    decision, _ = busy_case()
    records = [
        Attempt(1, 0, 0, "src_cloud", "cloud", "m", "vllm", "0.32", "", True),
        AttemptEnd(1, 0, 5, "upstream_overloaded", 503, "source answered 503"),
        Attempt(1, 1, 6, "src_home", "home", "m", "", "", "", False),
        Outcome(1, 9, "completed", 200, 1, "home", "m", "m", ("stop",), Usage(), 1, 2),
    ]
    told = explain_call(intent_of(decision, features(), MODEL), [object(), *records]).tried
    assert (
        len(told) == 4 and "cloud::m (vllm 0.32)" in told[0] and "503" in told[1] and "completed by home::m" in told[3]
    )


def test_readings_in_words() -> None:
    assert reading_words(LoadReading(inflight=2, inflight_since=2)) == "load unknown, 2 of ours in flight"
    full = LoadReading(3, 8, 912, 5, 1, 240, False, True)
    assert reading_words(full) == (
        "3 waiting, 8 running 240 ms before, 5 of ours in flight (1 of them not in these figures)"
        ", KV cache 91.2 % in use, saturated, unhealthy"
    )


def test_a_decision_replays_from_its_encoded_record() -> None:
    decision, among = busy_case()
    wire = msgspec.msgpack.encode(intent_of(decision, features(), MODEL))
    again = replay(msgspec.msgpack.decode(wire, type=Intent), {o.key: o for o in among})
    assert again.same, again.differences
    assert again.decision == decision


def test_a_truncated_decision_replays_with_the_permitted_offers() -> None:
    among = offers(*(source(f"s{i:02d}", priced("m", i % 7)) for i in range(30)))
    decision = decide(features(), MODEL, among, {}, candidates_max=4, seed=9)
    permits = tuple(Reason(o.key, "policy", "permit", "") for o in among)
    intent = intent_of(decision, features(), MODEL, permits)
    assert replay(intent, {o.key: o for o in among}).same


def test_what_a_truncated_decision_kept_replays_without_what_it_dropped() -> None:
    """Latencies of dropped offers are in no record, and the one whose excess was taken may be among them."""
    full = LoadReading(waiting=9, running=1, saturated=True)
    among = offers(source("best", Model(name="m", quality_milli=1000)), *(source(f"s{i}", "m") for i in range(6)))
    latencies = {o.key: 900_000 - i for i, o in enumerate(among)}
    decision = decide(features(), MODEL, among, {"src_best": full}, latencies=latencies, candidates_max=3)
    assert all(c.overflow for c in decision.candidates) and "best::m" not in {c.offer for c in decision.candidates}
    permits = tuple(Reason(o.key, "policy", "permit", "") for o in among)
    intent = intent_of(decision, features(), MODEL, permits)
    assert replay(intent, {o.key: o for o in among}).same
    worse = msgspec.structs.replace(decision, candidates=decision.candidates[::-1])
    assert not replay(intent_of(worse, features(), MODEL, permits), {o.key: o for o in among}).same


def test_a_replay_says_what_differs() -> None:
    decision, among = busy_case()
    intent = intent_of(decision, features(), MODEL)
    offers_then = {o.key: o for o in among}
    dearer = offers_then | {"cloud::m": offers(source("cloud", priced("m", 30)))[0]}
    assert any("cost_micro" in d for d in replay(intent, dearer).differences)
    gone = {k: o for k, o in offers_then.items() if k != "home::m"}
    differences = replay(intent, gone).differences
    assert "home::m is not in the snapshot given" in differences and any("order was" in d for d in differences)
    able = offers_then | {"blind::m": offers(source("blind", "m"))[0]}
    assert any("no longer rejected" in d for d in replay(intent, able).differences)
    blind = offers_then | {"home::m": offers(source("home", Model(name="m", abilities=())))[0]}
    assert any("now rejected" in d for d in replay(intent, blind).differences)


def test_a_decision_by_what_is_loaded_replays_and_older_readings_are_read() -> None:
    among = offers(source("a", "m"), source("b", "m"))
    readings = {"src_a": LoadReading(loaded=0, age_ms=3), "src_b": LoadReading(loaded=loaded_bit("m"), age_ms=3)}
    decision = decide(features(), MODEL, among, readings, seed=3)
    assert [c.offer for c in decision.candidates] == ["b::m", "a::m"]
    wire = msgspec.msgpack.encode(intent_of(decision, features(), MODEL))
    assert replay(msgspec.msgpack.decode(wire, type=Intent), {o.key: o for o in among}).same
    before = msgspec.msgpack.encode([3, 8, 912, 5, 1, 240, False, True])
    assert msgspec.msgpack.decode(before, type=LoadReading) == LoadReading(3, 8, 912, 5, 1, 240, False, True)
    assert reading_words(readings["src_b"]) == "load unknown, 0 of ours in flight, models loaded: 1"


def test_where_a_conversation_was_placed_is_told() -> None:
    among = offers(source("a", "m"), source("b", "m"))
    asked = msgspec.structs.replace(features(), affinity=7)
    bounds = Placement(4, 1250, 950, 2000)
    home = decide(asked, MODEL, among, {}, placement=bounds).candidates[0].offer
    busy = {f"src_{home[0]}": queue(0, running=9, stay_ms=1500)}
    told = explain(MODEL, "m", decide(asked, MODEL, among, busy, placement=bounds))
    assert "; the next place of its conversation." in told.order[0]
    assert told.order[1].endswith(
        "; the home of its conversation, and behind its replicas because it has more than its share of the load."
    )
    assert any("there for 1500 ms on average" in words for words in told.readings)
