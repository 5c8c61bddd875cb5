"""A conversation stays with one of two engines, through two workers that share nothing but their installation's secret,
and finds its prefix cached there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from interlock.routing.catalog import offers_of
from interlock.routing.replay import replay
from interlock.testing.simulator import EngineShape, SimulatedEngine
from interlock.types.identity import Recording
from interlock.types.record import Intent
from interlock.types.source import Source, SourceKind
from tests.gateway import PEPPER, Who, WorkerHarness, World, permit_all, source
from tests.integration.gateway.client import ask

SHAPE = EngineShape(prefill_tokens_per_s=1e6, step_base_s=0.0005, step_per_sequence_s=0)
SYSTEM = " ".join(f"rule-{n}" for n in range(200))
NAMES = ("one", "two")


class Site:
    """Two engines, and two workers of different nodes before them."""

    def __init__(self, engines: dict[str, SimulatedEngine], gateways: list[WorkerHarness]) -> None:
        self.engines, self.gateways = engines, gateways
        self._turn = 0

    def ask(self, body: dict[str, Any], path: str = "/v1/chat/completions", **headers: str) -> tuple[str, Any]:
        """One call, through either worker in turn: the source that answered, and the answer."""
        self._turn += 1
        answer = ask(self.gateways[self._turn % 2], body, path, **headers)
        assert answer.status == 200, answer.body
        return answer.headers["x-interlock-source"], answer.json

    def slot(self) -> int:
        """The affinity in the record of the last call."""
        intent = self.intent()
        assert intent.features is not None
        return intent.features.affinity

    def intent(self) -> Intent:
        return self.gateways[self._turn % 2].records_of(Intent)[-1]

    def load(self, name: str, running: int = 0, waiting: int = 0, saturated: bool = False) -> None:
        """What both nodes read of an engine."""
        for gateway in self.gateways:
            gateway.board.publish(
                gateway.board.row(f"src_{name}"), waiting=waiting, running=running, kv_permille=0, healthy=True,
                saturated=saturated, read_at_ns=time.monotonic_ns(),
            )  # fmt: skip

    def change(self, **drained: bool) -> None:
        """Give both workers a snapshot with these sources drained."""
        for gateway in self.gateways:
            gateway.change(World(self._sources(**drained), gateway.world.people, gateway.world.policies))

    def _sources(self, **drained: bool) -> list[Source]:
        return sources(self.engines, **drained)


def sources(engines: dict[str, SimulatedEngine], **drained: bool) -> list[Source]:
    return [
        source(name, engine.base_url, kind=SourceKind.vllm, drained=drained.get(name, False))
        for name, engine in engines.items()
    ]


PEOPLE = (Who(), Who("bob"), Who("carol", tenant="globex"), Who("dora", team="quiet", recording=Recording.metadata),
          Who("emil", team="quiet", recording=Recording.metadata))  # fmt: skip


@contextlib.contextmanager
def running(names: tuple[str, ...] = NAMES, **settings: Any) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        engines = {n: stack.enter_context(SimulatedEngine(SHAPE, models=("m",)).in_thread()) for n in names}
        policies = [permit_all(features=("store",))]
        gateways = [
            stack.enter_context(
                WorkerHarness(World(sources(engines), list(PEOPLE), policies), load_age_ms_max=600_000, **settings)
            )
            for _ in range(2)
        ]
        yield Site(engines, gateways)


@pytest.fixture
def site() -> Iterator[Site]:
    with running() as made:
        yield made


class Talk:
    """A conversation in OpenAI's dialect."""

    def __init__(self, site: Site, name: str) -> None:
        self._site = site
        self.messages: list[dict[str, str]] = [{"role": "system", "content": SYSTEM}]
        self.name = name
        self.cached: list[int] = []

    def turn(self, **headers: str) -> str:
        """Where it was answered."""
        self.messages.append({"role": "user", "content": f"{self.name} asks {len(self.messages)}"})
        body = {"model": "m", "messages": self.messages, "max_tokens": 4}
        where, answer = self._site.ask(body, **headers)
        self.messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
        self.cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
        return where


def test_turns_stay_together_and_conversations_spread(site: Site) -> None:
    talks = [Talk(site, f"talk {n}") for n in range(16)]
    homes = {talk.name: {talk.turn() for _ in range(4)} for talk in talks}
    assert all(len(where) == 1 for where in homes.values()), homes
    spread = [next(iter(where)) for where in homes.values()]
    assert 3 <= spread.count("one") <= 13
    assert all(min(talk.cached[1:]) >= 192 for talk in talks), "its own turns before, not only what all begin with"
    hits = sum(engine.simulator.prefix_hits for engine in site.engines.values())
    assert hits > 0.7 * sum(engine.simulator.prefix_queries for engine in site.engines.values())


def test_a_conversation_moves_when_its_engine_is_drained_and_comes_back(site: Site) -> None:
    talks = [Talk(site, f"talk {n}") for n in range(8)]
    homes = [talk.turn() for talk in talks]
    gone, left = homes[0], next(name for name in NAMES if name != homes[0])
    site.change(**{gone: True})
    assert [talk.turn() for talk in talks] == [left] * 8
    site.change()
    assert [talk.turn() for talk in talks] == homes


@pytest.mark.parametrize(
    "busy", [{"waiting": 9, "running": 8, "saturated": True}, {"running": 9}, {"waiting": 3, "running": 3}]
)
def test_a_conversation_moves_while_its_engine_has_too_much_and_comes_back(site: Site, busy: dict[str, Any]) -> None:
    talk = Talk(site, "talk")
    home = talk.turn()
    other = next(name for name in NAMES if name != home)
    site.load(home, running=2)
    site.load(other, running=1)
    assert talk.turn() == home, "a replica with a little less to do is no reason"
    site.load(home, **busy)
    assert {talk.turn(), talk.turn()} == {other}
    assert talk.cached[1] >= 192 and talk.cached[2] < 192 <= talk.cached[3], "it is cached there, too, by then"
    site.load(home, running=2)
    assert {talk.turn(), talk.turn()} == {home}


def test_decisions_are_recorded_and_replay(site: Site) -> None:
    talk = Talk(site, "talk")
    site.load("one", running=3)
    home = talk.turn()
    site.load(home, running=9)
    talk.turn()
    for gateway in site.gateways:
        for intent in gateway.records_of(Intent):
            assert intent.features is not None and 1 <= intent.features.affinity <= 4096
            offers = {o.key: o for o in offers_of(gateway.world.sources)}
            assert replay(intent, offers).same
            features = msgspec.structs.replace(intent.features, affinity=intent.features.affinity % 4096 + 1)
            moved = replay(msgspec.structs.replace(intent, features=features), offers)
            assert {c.place for c in moved.decision.candidates} == {1, 2}
    last = site.intent().route
    assert last.candidates[0].place == 2 and last.candidates[1].beyond == "load"
    assert last.placement is not None


def test_what_makes_a_conversation(site: Site) -> None:
    def slot(content: str, who: str = "alice", *, system: str = SYSTEM, session: str = "", **more: Any) -> int:
        said = [{"role": "system", "content": system}, {"role": "user", "content": content}]
        headers = {"x-interlock-session": session} if session else {}
        gateway = site.gateways[0]
        site.ask({"model": "m", "messages": said, "max_tokens": 1, **more}, key=gateway.key(who), **headers)
        return site.slot()

    first = slot("hello")
    assert slot("hello") == first == slot("hello", "bob"), "the same on both nodes, and for whom"
    others = {slot("hello", "carol"), slot("hallo"), slot("hello", system="be brief")}
    assert first not in others and len(others) == 3, "of another tenant, text or system prompt"
    assert slot("hello", "dora") not in (first, slot("hello", "emil"), slot("hello", "carol")), (
        "not recorded: one's own"
    )
    named = slot("hello", session="s-1")
    assert named != first and named == slot("anything else", session="s-1") != slot("hello", session="s-2")
    keyed = slot("hello", prompt_cache_key="k-1")
    assert keyed not in (first, named) and keyed == slot("another", prompt_cache_key="k-1")
    long = "x" * 300
    assert slot("a", session=long) == slot("b", session=long + "y"), "of a session's name the beginning counts"
    text = "word " * 2000
    assert slot(text + "one") == slot(text + "two"), "and of a long text"
    assert PEPPER.decode() not in str(site.intent())


def test_turns_stay_together_in_every_dialect(site: Site) -> None:
    def claude(*said: str) -> int:
        turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
        site.ask({"model": "m", "max_tokens": 2, "system": "be brief", "messages": turns}, "/v1/messages")
        return site.slot()

    assert claude("a") == claude("a", "b", "c") == claude("a", "b", "c", "d", "e") != claude("b") != 0
    slots: list[int] = []
    previous: Any = None
    for turn in range(3):
        body: dict[str, Any] = {
            "model": "m",
            "input": f"turn {turn}",
            "instructions": "be brief",
            "max_output_tokens": 4,
        }
        body["previous_response_id"] = previous
        site._turn = 1  # what is stored is known to one of the harnesses only
        _, answer = site.ask(body, "/v1/responses")
        previous = answer["id"]
        slots.append(site.slot())
    assert len(set(slots)) == 1 and slots[0]
    for turns in (1, 3):
        said = [{"role": ("user", "assistant")[n % 2], "content": f"text {n}"} for n in range(turns)]
        site.ask({"model": "m", "messages": said, "stream": False, "options": {"num_predict": 2}}, "/api/chat")
        slots.append(site.slot())
    assert slots[3] == slots[4] != slots[0]
    prompt = "Once upon a time " * 40
    found = []
    for text in (prompt, prompt + "there was", "Another"):
        site.ask({"model": "m", "prompt": text, "max_tokens": 1}, "/v1/completions")
        found.append(site.slot())
    assert found[0] == found[1] != found[2] != 0


def test_calls_are_not_placed_where_there_is_one_engine_or_the_setting_is_off() -> None:
    for names, settings in ((("one",), {}), (NAMES, {"placement_text_bytes_max": 0})):
        with running(names, **settings) as site:
            Talk(site, "talk").turn(**{"x-interlock-session": "mine"})
            intent = site.intent()
            assert intent.features is not None and intent.features.affinity == 0
            assert (intent.route.placement is None) == (len(names) == 1)
            assert not any(c.place for c in intent.route.candidates)


def test_where_calls_were_placed_is_counted(site: Site) -> None:
    talk = Talk(site, "talk")
    home = talk.turn()
    site.load(home, running=9)
    talk.turn()
    counted: dict[tuple[str, ...], int] = {}
    for gateway in site.gateways:
        cells = gateway.call(lambda g=gateway: dict(g.worker.runtime.metrics.placements.cells))  # type: ignore[misc]
        for labels, value in cells.items():
            counted[labels] = counted.get(labels, 0) + value
    assert counted == {("home",): 1, ("away",): 1}
