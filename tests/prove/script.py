"""What is asked and what is answered: all of it follows from a marker, so that client, engine and judge agree.

A marker is `<seed>:<round>:<client>:<number>`. It is sent as the prompt, and the engine derives its answer from it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
from collections.abc import Iterator
from typing import Any

from interlock.testing.answers import answer, error
from interlock.testing.script import RESET, Pause, Received, Script, Step
from interlock.wire.restream import as_stream

STEADY, FAR, SHAKY = "steady", "far", "shaky"
"""Sources: on-prem and sound; outside the trust boundary and sound; on-prem and failing in many ways."""
CHEAP, DEAR = "cheap-model", "dear-model"
"""Models of the steps of a cascade: the answers of the first are often cut short."""
CASCADE = "step-by-step"
"""The alias of it. Its answers must come to their end (the check `finish`)."""
MODELS = {
    STEADY: ("near-model", "any-model", CHEAP),
    FAR: ("far-model", "any-model", DEAR),
    SHAKY: ("any-model", "shaky-model"),
}
OPERATIONS = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "embeddings": "/v1/embeddings"}
WORDS = (
    "signal", "route", "naïve", "日本", "\"quoted\"", "🚆", "back\\slash", "points", "line\nfeed", "block", "Ω",
    "data:",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One call as a client makes it.

    `leaves_after`: body bytes after which the client goes away (-1: it stays). `slow`: it reads a little at a time.
    `known` False: the model does not exist.
    """

    marker: str
    operation: str
    model: str
    stream: bool
    n: int
    usage: bool
    leaves_after: int
    slow: bool
    known: bool

    @property
    def path(self) -> str:
        """Where it is sent."""
        return OPERATIONS[self.operation]

    def body(self) -> dict[str, Any]:
        """The request body."""
        body: dict[str, Any] = {"model": self.model}
        if self.operation == "chat":
            body["messages"] = [{"role": "user", "content": self.marker}]
        elif self.operation == "completions":
            body["prompt"] = self.marker
        else:
            return body | {"input": self.marker}
        body["max_tokens"] = 200
        if self.n > 1:
            body["n"] = self.n
        if self.stream:
            body["stream"] = True
            if self.usage:
                body["stream_options"] = {"include_usage": True}
        return body


def asked(marker: str) -> Asked:
    """The call that belongs to a marker."""
    rng = random.Random(f"ask {marker}")
    operation = rng.choices(("chat", "completions", "embeddings"), (85, 8, 7))[0]
    stream = operation != "embeddings" and rng.random() < 0.7
    models = ("near-model", "far-model", "any-model", "shaky-model", CASCADE)
    model = rng.choices(models, (35, 15, 20, 10, 20))[0]
    if model == CASCADE and operation == "embeddings":
        model = "any-model"  # only what generates goes step by step
    known = rng.random() > 0.02
    return Asked(
        marker=marker,
        operation=operation,
        model=model if known else "no-such-model",
        stream=stream,
        n=2 if operation == "chat" and rng.random() < 0.1 else 1,
        usage=rng.random() < 0.5,
        leaves_after=rng.randrange(4000) if rng.random() < 0.08 else -1,
        slow=rng.random() < 0.05,
        known=known,
    )


def marker_of(body: dict[str, Any]) -> str:
    """The marker in a request body; "" when there is none."""
    messages = body.get("messages")
    if messages:
        return str(messages[-1].get("content", ""))
    return str(body.get("prompt") or body.get("input") or "")


def sound(marker: str) -> Script:
    """The answer of a source that does not fail."""
    rng = random.Random(f"answer {marker}")
    count = rng.choice((1, 3, 10, 25, 60))
    text = " ".join(rng.choice(WORDS) for _ in range(count))
    tools = (("lookup", {"marker": marker, "word": rng.choice(WORDS)}),) if rng.random() < 0.06 else ()
    between_ms = rng.choice((0, 0, 1, 4, 400 / count / 2))
    return answer(text, tools=tools, delay_ms=rng.choice((0, 0, 2, 10, 40)), between_ms=min(between_ms, 30.0))


def enough(marker: str) -> bool:
    """Whether the answer of a cascade's first step comes to its end."""
    return random.Random(f"cheap {marker}").random() < 0.4


def cheap(marker: str) -> Script:
    """The answer of a cascade's first step: as sound as any, or cut short, and then nothing of it is for the caller."""
    if enough(marker):
        return sound(marker)
    rng = random.Random(f"short {marker}")
    text = " ".join(["draft", *(rng.choice(WORDS) for _ in range(rng.choice((2, 20))))])
    return answer(text, finish_reason="length", delay_ms=rng.choice((0, 2, 10, 40)))


def shaky(marker: str) -> Script:
    """The answer of a source that often fails: before its first byte, in the middle of its answer, or not at all."""
    rng = random.Random(f"shaky {marker}")
    kind = rng.choices(("sound", "500", "503", "reset", "cut"), (30, 15, 15, 20, 20))[0]
    if kind == "sound":
        return sound(marker)
    if kind in ("500", "503"):
        return error(int(kind), delay_ms=rng.choice((0.0, 5.0)))
    keep = rng.randrange(1, 12) if kind == "cut" else 0
    return functools.partial(_cut, script=sound(marker), keep=keep)


def _cut(received: Received, *, script: Script, keep: int) -> Iterator[Step]:
    """The first `keep` pieces of an answer, then a reset. A whole answer in one piece is cut in its middle."""
    sent = 0
    for step in script(received):
        if sent == keep:
            break
        if isinstance(step, bytes):
            sent += 1
            yield step if received.json.get("stream") else step[: len(step) // 2]
        else:
            yield step
    yield Pause(2)
    yield RESET


@functools.lru_cache(maxsize=50_000)
def expected(marker: str) -> Expected:
    """What the client of this marker gets if nothing fails."""
    call = asked(marker)
    body = call.body()
    if call.model == CASCADE:
        body["model"] = CHEAP if enough(marker) else DEAR
        if call.stream and enough(marker):
            return _held(call, body)
    if call.stream:
        body["stream_options"] = {"include_usage": True}  # the gateway asks for it, whether or not the caller did
    head, rest = _sent(call, body)
    if b"transfer-encoding: chunked" not in head:
        return Expected((rest,), 0)
    events = []
    while (size := int(rest[: rest.index(b"\r\n")], 16)) > 0:
        start = rest.index(b"\r\n") + 2
        events.append(rest[start : start + size])
        rest = rest[start + size + 2 :]
    events = [e for e in events[:-1] if call.usage or not _is_usage(e)]  # the last is [DONE]
    finishes = [i for i, e in enumerate(events) if b'"finish_reason":null' not in e and b'"finish_reason"' in e]
    return Expected(tuple(events), finishes[-1])


def _sent(call: Asked, body: dict[str, Any]) -> tuple[bytes, bytes]:
    """Head and body as a source answers that does not fail."""
    received = Received("POST", call.path, [], json.dumps(body).encode(), 0, 0)
    sent = b"".join(step for step in sound(call.marker)(received) if isinstance(step, bytes))
    head, _, rest = sent.partition(b"\r\n\r\n")
    return head, rest


def _held(call: Asked, body: dict[str, Any]) -> Expected:
    """A stream whose answer was held until it had passed its check: all of it waits for its outcome."""
    whole = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
    _, answered = _sent(call, whole)
    data = as_stream(json.loads(answered), chat=call.operation == "chat", usage=call.usage)
    events = [event + b"\n\n" for event in data.split(b"\n\n")[:-2]]  # the last is [DONE]
    return Expected(tuple(events), 0, answered)


def _is_usage(event: bytes) -> bool:
    return b'"choices":[]' in event and b'"usage"' in event


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """A body in the pieces that it may be recorded in: its events, or the whole of an unstreamed one.

    `held_from`: index of the first piece that may leave only after the outcome is durable. `recorded`: of a stream that
    was held as a whole, what its outcome has.
    """

    pieces: tuple[bytes, ...]
    held_from: int
    recorded: bytes = b""

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)


Said = dict[tuple[int, str], str]
"""Text by choice and by what it is: content, or a tool's arguments."""


def said_in(document: bytes, into: Said) -> None:
    """Add what one event says to what was said before. Raises ValueError when it is not JSON."""
    for choice in json.loads(document).get("choices") or ():
        index = int(choice.get("index", 0))
        delta = choice.get("delta") or {}
        _add(into, (index, "text"), delta.get("content") or choice.get("text") or "")
        for tool in delta.get("tool_calls") or ():
            function = tool.get("function") or {}
            _add(into, (index, f"tool {tool.get('index', 0)}"), function.get("name") or "")
            _add(into, (index, f"tool {tool.get('index', 0)}"), function.get("arguments") or "")


def _add(into: Said, key: tuple[int, str], text: str) -> None:
    if text:
        into[key] = into.get(key, "") + text


def said_by(pieces: list[bytes]) -> Said:
    """What the events of a stream say together; `[DONE]` and comments say nothing."""
    said: Said = {}
    for piece in pieces:
        payload = piece.removeprefix(b"data: ").strip()
        if payload and payload != b"[DONE]" and not payload.startswith(b":"):
            said_in(payload, said)
    return said
