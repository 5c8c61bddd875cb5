"""What is not to be kept of a call is kept nowhere, and whatever else is promised of a call holds."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from interlock.control.services import ledger as service
from interlock.gateway.pipeline import Run
from interlock.ledger.log import RecordLog
from interlock.routing.replay import replay
from interlock.storage import ledger_read
from interlock.storage.embedded import EmbeddedPostgres
from interlock.storage.migrate import migrate
from interlock.storage.pool import Store
from interlock.testing import answers, faults
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Received, Script
from interlock.types.identity import PrincipalKind, Recording
from interlock.types.record import AttemptEnd, Chunk, Intent, Outcome, Refusal
from interlock.types.snapshot import Alias, AliasTarget
from tests.gateway import Who, WorkerHarness, World, source
from tests.integration.gateway.client import (
    Answer,
    ask,
    connected,
    events,
    eventually,
    raw_request,
    read_until,
    text_of,
)
from tests.integration.ledger.harness import inbox, opened, settings_for, shipper_for
from tests.integration.ledger.haystack import Needles
from tests.integration.ledger.scene import everything

Keys = dict[str, Any]
ALGORITHMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake2b", "sha3_256")


class Words:
    """A prompt, a tool and an answer that nothing else on this machine holds."""

    def __init__(self) -> None:
        token = secrets.token_hex(8)
        self.prompt, self.tool, self.answer = (f"{what} of {token}" for what in ("question", "tool", "reply"))
        self.sent: list[bytes] = []
        self.got: list[bytes] = []

    def body(self, **more: Any) -> dict[str, Any]:
        tool = {"type": "function", "function": {"name": "f", "description": self.tool, "parameters": {}}}
        return {"model": "m", "messages": [{"role": "user", "content": self.prompt}], "tools": [tool], **more}

    def prompts(self) -> list[bytes]:
        """What somebody who guesses the prompt would look for."""
        body = self.body()
        guesses = [self.prompt.encode(), self.tool.encode(), *self.sent]
        for value in (*body["messages"], body["messages"], *body["tools"], body["tools"]):
            guesses += [json.dumps(value).encode(), json.dumps(value, separators=(",", ":")).encode()]
        return [self.prompt.encode(), self.tool.encode(), *_hashes(guesses)]

    def answers(self) -> list[bytes]:
        """The same for the answer."""
        guesses = [self.answer.encode(), *self.got]
        guesses += [json.dumps(json.loads(body)).encode() for body in self.got if body.startswith(b"{")]
        return [self.answer.encode(), *_hashes(guesses)]


def _hashes(guesses: list[bytes]) -> list[bytes]:
    digests = [hashlib.new(name, guess).digest() for guess in guesses for name in ALGORITHMS]
    return [form for digest in digests for form in (digest, digest.hex().encode())]


class Scene:
    """A worker before one engine, and the ledger of what is said through it."""

    def __init__(
        self,
        store: Store,
        server: EmbeddedPostgres,
        url: str,
        home: Path,
        gateway: WorkerHarness,
        engine: ScriptedEngine,
    ) -> None:
        self.store, self.server, self.url, self.home, self.gateway, self.engine = (
            store, server, url, home, gateway, engine,
        )  # fmt: skip
        self.words = Words()
        self.began = self._segment()

    def _segment(self) -> str:
        """The file of the write-ahead log that is written now."""
        with psycopg.connect(self.server.superuser_url, autocommit=True) as conn:
            row = conn.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").fetchone()
        assert row is not None
        return str(row[0])

    def say(self, who: str = "alice", script: Script | None = None, **more: Any) -> Answer:
        """A call, answered with the words."""
        headers = {name: more.pop(name) for name in list(more) if name.startswith("x_")}
        body = json.dumps(self.words.body(**more)).encode()
        self.words.sent.append(body)
        self.engine.script(script or answers.answer(self.words.answer))
        answer = ask(self.gateway, body, key=self.gateway.key(who), **headers)
        self.words.got.append(answer.body)
        if more.get("stream"):
            self.words.got.append(text_of(events(answer.body)).encode())
        return answer

    def ship(self) -> list[Any]:
        """Everything so far to the database; the leaves."""
        shipper_for(self.store, self.home).pass_once()
        return inbox(self.store)

    def stores(self) -> Iterator[tuple[str, bytes]]:
        """Every store, byte by byte: the worker's files, rows as text, and the database's own files; of the write-ahead
        log what was written since this scene began: what is older, or only kept to be written over, is of others."""
        for path in sorted(self.home.rglob("*")):
            if path.is_file():
                yield str(path), path.read_bytes()
        for row in everything(self.url):
            yield "a row", row.encode()
        with psycopg.connect(self.server.superuser_url, autocommit=True) as conn:
            conn.execute("CHECKPOINT")
            number = conn.execute(
                "SELECT oid FROM pg_database WHERE datname = %s",
                (psycopg.conninfo.conninfo_to_dict(self.url)["dbname"],),
            ).fetchone()
        assert number is not None
        data = Path(f"/proc/{self.server.pid}/cwd")
        logs = [path for path in (data / "pg_wal").iterdir() if self.began <= path.name <= self._segment()]
        assert logs, "there is a log of what was written"
        for path in (*(data / "base" / str(number[0])).rglob("*"), *logs):
            if path.is_file():
                yield str(path), path.read_bytes()

    def found(self, needles: list[bytes]) -> list[tuple[str, bytes]]:
        """Where which needle is."""
        stores = list(self.stores())
        assert len(stores) > 100
        wanted = Needles(needles)
        return [(where, needle) for where, data in stores for needle in wanted.within(data)]

    def notes(self, request: str) -> tuple[str, ...]:
        """What `ledger show` says is not there."""
        from interlock.control.main import ledger_signer
        from interlock.control.sequencer import Sequencer
        from interlock.types.clock import SystemClock

        settings = settings_for(self.home, ledger_checkpoint_s=0)
        Sequencer(self.store, settings, SystemClock(), [ledger_signer(settings)]).sequence("ten_acme")
        with self.store.tenant("ten_acme") as conn:
            assert ledger_read.of_request(conn, "ten_acme", request)
            return service.show(conn, "ten_acme", request, None, settings).notes


def people() -> list[Who]:
    return [
        Who("alice"),
        Who("pia", team="outline", recording=Recording.prompt_only),
        Who("mia", team="works", recording=Recording.metadata),
        Who("tina", tenant="globex", tenant_recording=Recording.metadata),
        Who("bot", kind=PrincipalKind.service, scopes=("infer", "assert-user"), team=""),
    ]


ALIASES = [
    Alias(name, targets=(AliasTarget("m"),), recording=mode)
    for name, mode in (("half", Recording.prompt_only), ("none", Recording.metadata))
]


@pytest.fixture
def scene(postgres_server: EmbeddedPostgres, postgres_migrated_url: str, tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        settings = settings_for(tmp_path)
        migrate(postgres_migrated_url, settings)
        store = stack.enter_context(Store(postgres_migrated_url, settings))
        engine = stack.enter_context(ScriptedEngine(models=("m",)).in_thread())
        world = World([source("s", engine.base_url)], people(), aliases=ALIASES)
        gateway = stack.enter_context(WorkerHarness(world, tmp_path, attempts_max=1, breaker_failures=1000))
        yield Scene(store, postgres_server, postgres_migrated_url, tmp_path, gateway, engine)


def quotes(words: Words) -> list[Script]:
    """Sources that quote what they were asked and what they would have answered."""
    said = f"cannot do {words.prompt} with {words.tool}: {words.answer}"

    def echo(received: Received) -> Any:
        return answers.error(400, message=received.body.decode())(received)

    return [
        echo,
        answers.error(500, message=said),
        answers.error(429, message=said),
        answers.error(503, message=said),
        answers.page(said, 500),
    ]


def everything_that_can_happen(scene: Scene, who: str, **more: Any) -> None:
    """Calls of every shape and every end."""
    assert scene.say(who, **more).status == 200
    streamed = scene.say(who, stream=True, **more)
    assert text_of(events(streamed.body)) == scene.words.answer and streamed.body.endswith(b"[DONE]\n\n")
    tools = answers.answer(tools=[("f", {"x": scene.words.answer})])
    assert scene.say(who, tools, stream=True, **more).status == 200
    for stream in (False, True):
        for script in quotes(scene.words):
            assert scene.say(who, script, stream=stream, **more).status in (400, 429, 502, 503, 500)
    broken = scene.say(who, faults.error_event(2, scene.words.answer + scene.words.prompt), stream=True, **more)
    assert scene.words.answer.encode() in broken.body, "the caller is told all the same"
    assert scene.say(who, **{**more, "model": "nothing"}).status == 404
    assert scene.say(who, **{**more, "n": 0}).status == 400


def test_the_search_finds_what_is_kept(scene: Scene) -> None:
    everything_that_can_happen(scene, "alice")
    scene.ship()
    logs = [where for where, _ in scene.found([scene.words.prompt.encode()])]
    assert logs and all("/log/" in where for where in logs)
    assert scene.found([scene.words.answer.encode()])
    sent = hashlib.sha256(scene.words.sent[-2]).digest()
    assert scene.found([sent]), "of what was refused the log has a hash"


def test_the_search_finds_what_the_database_holds(scene: Scene) -> None:
    """Raw bytes and words of a row: in the row as text, in the table's file, in the write-ahead log."""
    digest, other = hashlib.sha256(scene.words.prompt.encode()).digest(), secrets.token_bytes(32)
    with psycopg.connect(scene.url, autocommit=True) as conn:
        conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
        conn.execute("CREATE TABLE interlock.kept (said text, digest bytea)")
        conn.execute("INSERT INTO interlock.kept VALUES (%s, %s)", (scene.words.answer, digest))
    words, text = scene.words.answer.encode(), digest.hex().encode()
    found = {
        (re.sub("^/.*/(base|pg_wal)/.*", r"\1", where), needle)
        for where, needle in scene.found([words, digest, text, other])
    }
    assert found == {
        *((place, kept) for place in ("base", "pg_wal") for kept in (words, digest)),
        ("a row", words),
        ("a row", text),
    }


@pytest.mark.parametrize(
    ("who", "more"),
    [
        ("mia", {}),
        ("tina", {}),
        ("alice", {"x_interlock_recording": "metadata"}),
        ("alice", {"interlock": {"recording": "metadata"}}),
    ],
    ids=["team", "tenant", "header", "body"],
)
def test_of_a_call_with_metadata_only_neither_prompt_nor_answer_is_anywhere(
    scene: Scene, who: str, more: dict[str, Any]
) -> None:
    everything_that_can_happen(scene, who, **more)
    leaves = scene.ship()
    assert scene.found([*scene.words.prompts(), *scene.words.answers()]) == []
    read = [leaf for leaf in leaves if leaf["result"]["status"] != 400 or leaf["kind"] == "call"]
    assert {leaf["what"]["recording"] for leaf in read} == {"metadata"} and len(read) == len(leaves) - 1
    assert all([each["role"] for each in leaf["contents"]] == ["record"] for leaf in leaves)
    records = scene.gateway.records()
    assert not [r for r in records if isinstance(r, Chunk)]
    assert {(r.body, r.body_sha256) for r in records if isinstance(r, (Intent, Outcome))} == {(b"", b"")}
    assert {r.chunks_sha256 for r in records if isinstance(r, Outcome)} == {b""}
    refused = [r for r in records if isinstance(r, Refusal)]
    assert {(r.body_sha256, r.status == 400, r.words == "") for r in refused} == {
        (b"", True, True),
        (b"", False, False),
    }
    assert {r.words for r in records if isinstance(r, (AttemptEnd, Outcome))} == {""}
    if who != "tina":
        words = "neither prompt nor answer was kept (recording: metadata)"
        assert scene.notes(leaves[0]["request"]) == (words,)


@pytest.mark.parametrize(
    ("who", "more"),
    [("pia", {}), ("alice", {"model": "half"}), ("alice", {"x_interlock_recording": "prompt_only"})],
    ids=["team", "alias", "header"],
)
def test_of_a_call_with_its_prompt_only_no_answer_is_anywhere(scene: Scene, who: str, more: dict[str, Any]) -> None:
    everything_that_can_happen(scene, who, **more)
    leaves = scene.ship()
    assert scene.found(scene.words.answers()) == []
    calls = [leaf for leaf in leaves if leaf["kind"] == "call"]
    assert {leaf["what"]["recording"] for leaf in calls} == {"prompt_only"}
    roles = {tuple(each["role"] for each in leaf["contents"]) for leaf in calls}
    assert roles == {("messages", "tools", "request", "record")}
    assert opened(scene.store, calls[0])["messages"][0]["content"] == scene.words.prompt
    assert scene.notes(calls[0]["request"]) == ("the answer was not kept (recording: prompt_only)",)


def test_what_was_counted_is_the_same_whatever_is_kept(scene: Scene) -> None:
    for stream in (False, True):
        for mode in ("full", "prompt_only", "metadata"):
            scene.say(stream=stream, x_interlock_recording=mode)
    found = scene.gateway.records_of(Outcome)
    for three in (found[:3], found[3:]):
        figures = [
            (o.state, o.status, o.chunks, o.usage, o.finish_reasons, o.bytes_sent, o.served_model) for o in three
        ]
        assert figures[0] == figures[1] == figures[2]
    assert found[3].chunks > 1 and len(scene.gateway.records_of(Chunk)) == found[3].chunks


@pytest.mark.parametrize(
    ("who", "asked", "expected"),
    [
        ("alice", {}, 0),
        ("alice", {"x_interlock_recording": "full", "interlock": {"recording": "full"}}, 0),
        ("alice", {"x_interlock_recording": "metadata", "interlock": {"recording": "prompt_only"}}, 2),
        ("alice", {"x_interlock_recording": "full", "interlock": {"recording": "metadata"}}, 2),
        ("alice", {"x_interlock_recording": ""}, 0),
        ("alice", {"model": "half"}, 1),
        ("alice", {"model": "half", "x_interlock_recording": "metadata"}, 2),
        ("alice", {"model": "none", "x_interlock_recording": "prompt_only"}, 2),
        ("pia", {"x_interlock_recording": "full"}, 1),
        ("pia", {"model": "none"}, 2),
        ("mia", {"model": "half", "interlock": {"recording": "full"}}, 2),
        ("tina", {"x_interlock_recording": "full"}, 2),
        ("bot", {}, 0),
        ("bot", {"x_interlock_assert_user": "mia"}, 2),
        ("bot", {"x_interlock_assert_user": "alice"}, 0),
    ],
)
def test_the_strictest_that_anybody_concerned_asks_for_holds(
    scene: Scene, who: str, asked: dict[str, Any], expected: int
) -> None:
    answer = scene.say(who, **asked)
    assert answer.status == 200, answer.body
    assert [intent.recording for intent in scene.gateway.records_of(Intent)] == [expected]
    assert b"recording" not in scene.engine.calls[0].body, "the wish stays here"


def test_an_unknown_recording_is_refused_and_nothing_of_it_is_kept(scene: Scene) -> None:
    answer = scene.say(x_interlock_recording="nothing")
    assert (answer.status, answer.error["param"]) == (400, "interlock.recording")
    assert scene.say(interlock={"recording": "all"}).status == 400
    assert [refusal.body_sha256 for refusal in scene.gateway.records_of(Refusal)] == [b"", b""]


def test_of_what_cannot_be_read_nobody_knows_what_may_be_kept(scene: Scene) -> None:
    """Whose body is broken may have asked in it that nothing be kept: there is no hash of it."""
    words = scene.words
    broken = json.dumps(words.body(interlock={"recording": "metadata"})).encode()[:-1]
    strange = words.body(messages=[{"role": "user", "content": [{"type": words.prompt}]}])
    for who in ("alice", "mia"):
        for body in (broken, strange):
            words.sent.append(json.dumps(body).encode() if isinstance(body, dict) else body)
            answer = ask(scene.gateway, body, key=scene.gateway.key(who))
            assert answer.status == 400
    scene.ship()
    assert scene.found(words.prompts()) == []
    refused = scene.gateway.records_of(Refusal)
    assert refused[0].code == "invalid_json" and {(r.body_sha256, r.words) for r in refused} == {(b"", "")}


def test_policy_and_route_are_decided_again_without_what_was_said(scene: Scene) -> None:
    scene.say(x_interlock_recording="metadata", model="half")
    (intent,) = scene.gateway.records_of(Intent)
    catalog = scene.gateway.view.catalog("ten_acme")
    assert replay(intent, catalog.by_key).same and intent.permits
    leaf = scene.ship()[0]
    kept = opened(scene.store, leaf)["record"]
    assert kept[0][0] == 2 and len(kept) == 3, "intent, attempt and outcome"


@pytest.mark.parametrize("mode", ["prompt_only", "metadata"])
def test_no_event_leaves_before_the_record_of_its_attempt_is_durable(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """P1 as ever: what is not kept changes nothing of what has to be on the disk first."""
    durable: list[bool] = []
    real = Run.forward

    def forward(run: Run, data: bytes) -> None:
        attempt = run.last_attempt
        log: RecordLog = run.runtime.log
        assert attempt is not None
        durable.append(log.durable_seq >= max(attempt.seq, run.call.intent_seq))
        real(run, data)

    monkeypatch.setattr(Run, "forward", forward)
    answer = scene.say(stream=True, x_interlock_recording=mode)
    assert answer.body.endswith(b"[DONE]\n\n") and len(durable) > 1 and all(durable)
    assert [o.state for o in scene.gateway.records_of(Outcome)] == ["completed"]


def test_of_a_call_that_is_under_way_the_log_has_nothing_of_the_answer(scene: Scene) -> None:
    body = scene.words.body(stream=True, interlock={"recording": "prompt_only"})
    scene.engine.script(faults.endless(between_ms=5, text=scene.words.answer))
    with connected(scene.gateway) as sock:
        sock.sendall(raw_request(scene.gateway, body))
        read_until(sock, scene.words.answer.encode())
        assert scene.found(scene.words.answers()) == []
    eventually(lambda: [o.state for o in scene.gateway.records_of(Outcome)] == ["disconnected"])
