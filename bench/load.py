"""The load generator: one process, told what to do line by line (JSON in, JSON out).

    {"do": "requests", "port": P, "connections": C, "count": N}      closed loop: C callers, N unstreamed calls
    {"do": "rate", "port": P, "rate": R, "seconds": S}               open loop: fixed arrivals, latencies
    {"do": "streams", "port": P, "streams": S, "rounds": K, "events": E}   S streams at a time, K after each other
    {"do": "forget", "port": P}                                      close the connections to P

Each answer is checked: its status, and that it is whole. In the open loop calls are sent whether or not earlier ones
have been answered, so that a stall counts for every call it delays.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import json
import sys
import time
from typing import Any

import httptools
import uvloop

PROMPT_BYTES = 1024
EVENT_MARK = b"data: "
TICK_S = 0.001
RATE_CONNECTIONS = 512


def request(model: str, key: str, stream_events: int = 0) -> bytes:
    """A chat request with a 1 KB prompt. With `stream_events` it asks for a stream of so many events."""
    sentence = "A train may pass when the route is set, locked and proven. "
    prompt = (sentence * (PROMPT_BYTES // len(sentence) + 1))[:PROMPT_BYTES]
    document: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    document["max_tokens"] = stream_events or 64
    if stream_events:
        document["stream"] = True
    body = json.dumps(document, separators=(",", ":")).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\naccept: */*\r\nuser-agent: bench\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Caller(asyncio.Protocol):
    """One connection. `finish(caller)` is called when its answer has ended, well or badly."""

    def __init__(self) -> None:
        self.finish: Any = None
        self.transport: Any = None
        self.errors: dict[str, int] = {}
        self.open = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.open = True
        self.parser = httptools.HttpResponseParser(self)

    def call(self, data: bytes, finish: Any, due: float = 0.0) -> None:
        """Send a request."""
        self.finish = finish
        self.due = due
        self.events = self.reads = self.size = 0
        self.first = 0.0
        self.tail = b""
        self.whole = False
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self.reads += 1
        self.parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        if not self.size:
            self.first = time.monotonic()
        self.size += len(data)
        self.events += data.count(EVENT_MARK)
        self.tail = data

    def on_message_complete(self) -> None:
        self.whole = True
        finish, self.finish = self.finish, None
        if finish is not None:
            finish(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio.Protocol
        self.open = False
        finish, self.finish = self.finish, None
        if finish is not None:
            finish(self)

    def fault(self, streamed: bool) -> str:
        """ "" when the answer was right, else what was wrong."""
        if not self.whole:
            return "cut off"
        if (status := self.parser.get_status_code()) != 200:
            return f"status {status}: {self.tail[:120].decode(errors='replace')}"
        if streamed and b"[DONE]" not in self.tail:
            return "no [DONE]"
        if not streamed and not self.tail.endswith(b"}"):
            return "not JSON"
        return ""


class Load:
    """Connections to each port, and the runs over them."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.pools: dict[int, list[Caller]] = {}

    async def callers(self, port: int, count: int) -> list[Caller]:
        """`count` open connections to `port`, kept between runs."""
        pool = self.pools[port] = [c for c in self.pools.get(port, []) if c.open]
        while len(pool) < count:
            batch = [self.loop.create_connection(Caller, "127.0.0.1", port) for _ in range(min(64, count - len(pool)))]
            for _, caller in await asyncio.gather(*batch):
                pool.append(caller)
        return pool[:count]

    async def requests(self, port: int, connections: int, count: int, data: bytes) -> dict[str, Any]:
        """Closed loop."""
        callers = await self.callers(port, connections)
        done = self.loop.create_future()
        faults: dict[str, int] = {}
        state = {"sent": 0, "ended": 0}

        def finish(caller: Caller) -> None:
            fault = caller.fault(False)
            if fault:
                faults[fault] = faults.get(fault, 0) + 1
            state["ended"] += 1
            if state["ended"] == count:
                done.set_result(None)
            elif state["sent"] < count and caller.open:
                state["sent"] += 1
                caller.call(data, finish)
            elif not caller.open and not any(c.open for c in callers) and not done.done():
                done.set_result(None)

        start = time.monotonic()
        for caller in callers:
            state["sent"] += 1
            caller.call(data, finish)
        await done
        seconds = time.monotonic() - start
        return {"count": state["ended"], "seconds": seconds, "per_second": state["ended"] / seconds, "faults": faults}

    async def rate(self, port: int, rate: float, seconds: float, data: bytes) -> dict[str, Any]:
        """Open loop: `rate` arrivals a second, evenly spread over at most `RATE_CONNECTIONS` connections; an arrival
        that finds none free waits for one, and its wait counts."""
        callers = await self.callers(port, RATE_CONNECTIONS)
        free = list(callers)
        waiting: collections.deque[float] = collections.deque()
        latencies: list[float] = []
        late: list[float] = []
        faults: dict[str, int] = {}
        all_in = asyncio.Event()
        total = int(rate * seconds)

        def finish(caller: Caller) -> None:
            latencies.append(time.monotonic() - caller.due)
            fault = caller.fault(False)
            if fault:
                faults[fault] = faults.get(fault, 0) + 1
            if waiting and caller.open:
                caller.call(data, finish, waiting.popleft())
            elif caller.open:
                free.append(caller)
            if len(latencies) == total:
                all_in.set()

        start = time.monotonic() + 0.01
        sent = 0
        while sent < total:
            now = time.monotonic()
            while sent < total and (due := start + sent / rate) <= now:
                sent += 1
                late.append(now - due)
                while free and not free[-1].open:
                    free.pop()  # never used in this run, and closed by the other side
                if free:
                    free.pop().call(data, finish, now)
                else:
                    waiting.append(now)
            await asyncio.sleep(TICK_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(all_in.wait(), 30)
        if len(latencies) < total:
            faults["no answer within 30 s"] = total - len(latencies)
        return {
            "count": total, "answered": len(latencies), "faults": faults, **percentiles(latencies),
            "sent_late_p99_ms": percentiles(late)["p99_ms"],
        }  # fmt: skip

    async def streams(self, port: int, streams: int, rounds: int, data: bytes) -> dict[str, Any]:
        """`streams` at a time, each connection `rounds` of them one after the other, begun evenly over 100 ms."""
        callers = await self.callers(port, streams)
        done = self.loop.create_future()
        faults: dict[str, int] = {}
        firsts: list[float] = []
        state = {"ended": 0, "events": 0, "reads": 0}
        total = streams * rounds
        left = dict.fromkeys(callers, rounds)

        def finish(caller: Caller) -> None:
            fault = caller.fault(True)
            if fault:
                faults[fault] = faults.get(fault, 0) + 1
            else:
                firsts.append(caller.first - caller.due)
            state["ended"] += 1
            state["events"] += caller.events
            state["reads"] += caller.reads
            left[caller] -= 1
            if left[caller] and caller.open:
                caller.call(data, finish, time.monotonic())
            elif left[caller]:
                state["ended"] += left[caller]
            if state["ended"] >= total and not done.done():
                done.set_result(None)

        start = time.monotonic()
        for number, caller in enumerate(callers):
            caller.call(data, finish, time.monotonic())
            if number % 16 == 15:
                await asyncio.sleep(0.1 * 16 / streams)
        await done
        seconds = time.monotonic() - start
        return {
            "streams": total, "events": state["events"], "reads": state["reads"], "seconds": seconds, "faults": faults,
            "first_byte": percentiles(firsts),
        }  # fmt: skip

    def forget(self, port: int) -> dict[str, Any]:
        """Close what is open to `port`."""
        for caller in self.pools.pop(port, []):
            if caller.open:
                caller.transport.close()
        return {}

    async def do(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one line."""
        kind, port = order["do"], order["port"]
        if kind == "forget":
            return self.forget(port)
        data = request(order["model"], order["key"], order.get("events", 0))
        if kind == "requests":
            return await self.requests(port, order["connections"], order["count"], data)
        if kind == "rate":
            return await self.rate(port, order["rate"], order["seconds"], data)
        return await self.streams(port, order["streams"], order["rounds"], data)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p90, p99 and the largest, in milliseconds."""
    ordered = sorted(seconds) or [0.0]
    last = len(ordered) - 1
    return {f"p{p}_ms": round(ordered[round(last * p / 100)] * 1000, 3) for p in (50, 90, 99, 100)}


async def serve() -> None:
    """Read orders until the input ends."""
    load = Load()
    reader = asyncio.StreamReader()
    await load.loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    gc.freeze()
    while line := await reader.readline():
        try:
            answer = await load.do(json.loads(line))
        except Exception as e:
            answer = {"error": f"{type(e).__name__}: {e}"}
        gc.collect()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(serve())
