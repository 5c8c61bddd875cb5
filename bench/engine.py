"""A mock engine that costs as little CPU as Python allows: what is measured is never the engine.

It answers every POST with a fixed chat completion, or, when the request says `"stream":true`, with `max_tokens` events
at a fixed pace. Streams are spread evenly over the interval (a wheel of one-millisecond slots), so that events arrive
one by one, as from a real engine with many callers, and not in bursts that a proxy could take together.

    python -m bench.engine --port P [--interval-ms 20]
    POST /pace {"interval_ms": 200}     for streams that begin later
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import re
import time
from typing import Any

import httptools
import uvloop

TICK_S = 0.001
MODEL = "bench"
TEXT = "The interlocking locks the points before the signal clears. " * 6
ANSWER = json.dumps(
    {
        "id": "chatcmpl-bench", "object": "chat.completion", "created": 1_800_000_000, "model": MODEL,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": TEXT}, "logprobs": None, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 260, "completion_tokens": 60, "total_tokens": 320},
    },
    separators=(",", ":"),
).encode()  # fmt: skip


def whole(body: bytes, kind: bytes = b"application/json", status: bytes = b"200 OK") -> bytes:
    """A complete HTTP/1.1 answer."""
    return b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (status, kind, len(body), body)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    """One streamed event in vLLM's form, as a chunk."""
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}] if not more else []
    document = {
        "id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1_800_000_000, "model": MODEL,
        "choices": choices, **more,
    }  # fmt: skip
    return chunk(b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n")


WHOLE = whole(ANSWER)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
FIRST = event({"role": "assistant", "content": ""})
WORD = event({"content": " points"})
FINISH = event({}, "stop")
USAGE = event({}, usage={"prompt_tokens": 260, "completion_tokens": 60, "total_tokens": 320})
DONE = chunk(b"data: [DONE]\n\n") + chunk(b"")
MODELS = whole(
    json.dumps(
        {
            "object": "list",
            "data": [{"id": MODEL, "object": "model", "owned_by": "vllm", "root": MODEL, "max_model_len": 131072}],
        }
    ).encode()
)
MAX_TOKENS = re.compile(rb'"max_(?:completion_)?tokens":\s*(\d+)')
STREAM = re.compile(rb'"stream":\s*true')
INCLUDE_USAGE = re.compile(rb'"include_usage":\s*true')


class Wheel:
    """Every stream's next event, in slots of a millisecond."""

    def __init__(self, interval_ms: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.set_interval(interval_ms)
        self.start = time.monotonic()
        self.done_ticks = 0
        self.running = 0
        self.served = 0
        self.tick()

    def set_interval(self, interval_ms: int) -> None:
        """Change the pace. Only while no stream runs."""
        self.interval_ms = interval_ms
        self.slots: list[list[Connection]] = [[] for _ in range(interval_ms)]

    def add(self, connection: Connection) -> None:
        """Have `connection.fire` called every interval until it returns False. Joins the emptiest slot."""
        self.running += 1
        min(self.slots, key=len).append(connection)

    def tick(self) -> None:
        """Serve the slots whose time has come."""
        now = int((time.monotonic() - self.start) / TICK_S)
        for number in range(max(self.done_ticks, now - self.interval_ms), now):
            slot = self.slots[number % self.interval_ms]
            if slot:
                alive = [c for c in slot if c.fire()]
                self.running -= len(slot) - len(alive)
                slot[:] = alive
        self.done_ticks = now
        self.loop.call_later(TICK_S, self.tick)


class Connection(asyncio.Protocol):
    """One client connection."""

    wheel: Wheel

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.body: list[bytes] = []
        self.path = b""
        self.left = -1
        self.begun = False
        self.include_usage = False

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.path = url

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        body = b"".join(self.body)
        self.body.clear()
        self.wheel.served += 1
        if self.path.endswith(b"/completions"):
            if STREAM.search(body) is None:
                self.transport.write(WHOLE)
                return
            found = MAX_TOKENS.search(body)
            self.left = int(found[1]) if found else 64
            self.begun = False
            self.include_usage = INCLUDE_USAGE.search(body) is not None
            self.transport.write(STREAM_HEAD)
            self.wheel.add(self)
            return
        self.transport.write(self.page(body))

    def page(self, body: bytes) -> bytes:
        """The pages a vLLM source is discovered and watched by."""
        if self.path == b"/pace":
            self.wheel.set_interval(json.loads(body)["interval_ms"])
            return whole(b"{}")
        if self.path.endswith(b"/models"):
            return MODELS
        if self.path == b"/version":
            return whole(b'{"version":"0.32.0"}')
        if self.path == b"/metrics":
            text = f'vllm:num_requests_running{{model_name="{MODEL}"}} {self.wheel.running}\n'
            text += f'vllm:num_requests_waiting{{model_name="{MODEL}"}} 0\nvllm:kv_cache_usage_perc 0.1\n'
            return whole(text.encode(), b"text/plain; version=0.0.4")
        return whole(b"", b"text/plain")

    def fire(self) -> bool:
        """Send the stream's next event; False when it was the last. `max_tokens` counts every event but usage."""
        if self.left < 0:
            return False
        self.left -= 1
        if self.left > 0:
            self.transport.write(WORD if self.begun else FIRST)
            self.begun = True
            return True
        self.transport.write(FINISH + (USAGE if self.include_usage else b"") + DONE)
        self.left = -1
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio.Protocol
        self.left = -1


async def serve(port: int, interval_ms: int) -> None:
    """Listen on loopback until killed."""
    Connection.wheel = Wheel(interval_ms)
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=8192)
    gc.freeze()
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--interval-ms", type=int, default=20)
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.interval_ms))


if __name__ == "__main__":
    main()
