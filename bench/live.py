"""What open live pages cost: 50 of them on one control process, under a steady load of calls through one gateway.

    .venv/bin/python -m bench.live [--pages 50] [--scopes 1] [--rate 100] [--seconds 8] [--rounds 4] [--out FILE]

Rounds without and with open pages alternate over one running installation; each is an open loop of calls at the same
rate. Of each: the gateway's CPU per call and its callers' latency, the control process's CPU and memory. The pages are
real clients of the stream: what they got, how much, and the longest silence are told. With `--scopes` above 1 they look
at different tables, each of which is counted and rendered apart. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from bench import procs
from bench.measure import SMOKE, Bench, refuse_faults
from bench.subjects import Gateway

BY = ("source", "model", "team", "cost_center", "principal", "tenant")
WARM_S = 3.0
"""Seconds that pages are open before a round begins."""


def say(words: str) -> None:
    """Tell whoever waits."""
    print(words, file=sys.stderr, flush=True)


class Pages:
    """Clients that keep the live page's stream open, on a loop in a thread of their own."""

    def __init__(self, url: str, password: str, count: int, scopes: int) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        self.host, self.port = parts.hostname, parts.port
        self.count, self.scopes = count, scopes
        self.cookie = self._sign_in(password)
        self.events = self.bytes = self.open = 0
        self.silent_s = 0.0
        self.faults: list[str] = []
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._read(),))
        self._thread.start()

    def _sign_in(self, password: str) -> str:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        headers = {
            "content-type": "application/x-www-form-urlencoded",
            "origin": f"http://{self.host}:{self.port}",
        }
        connection.request("POST", "/console/sign-in", urlencode({"name": "admin", "password": password}), headers)
        answer = connection.getresponse()
        cookie = answer.headers.get("set-cookie", "").partition(";")[0]
        connection.close()
        if answer.status != 303 or not cookie:
            raise RuntimeError(f"signing in: status {answer.status}")
        return cookie

    async def _read(self) -> None:
        readers = [asyncio.create_task(self._page(BY[n % self.scopes])) for n in range(self.count)]
        await self._stop.wait()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    async def _page(self, by: str) -> None:
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=8_000_000)
        try:
            path = f"/console/live/stream?by={by}"
            writer.write(f"GET {path} HTTP/1.1\r\nhost: {self.host}\r\ncookie: {self.cookie}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.split(b"\r\n")[0]:
                self.faults.append(head.split(b"\r\n")[0].decode())
                return
            self.open += 1
            heard = time.monotonic()
            while data := await reader.read(262_144):
                now = time.monotonic()
                self.silent_s, heard = max(self.silent_s, now - heard), now
                self.bytes += len(data)
                self.events += data.count(b"event: live")
            self.faults.append("a stream ended")
        finally:
            writer.close()

    def close(self) -> None:
        """Close them all. Raises RuntimeError when one was refused or ended by itself."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()
        if self.faults or self.open != self.count:
            raise RuntimeError(f"{self.open} of {self.count} pages were open: {self.faults[:3]}")


def control_of(gateway: Gateway) -> list[int]:
    """The control process: what of `interlock up` holds the admin API."""
    found = [pid for pid in gateway.rest() if "interlock.control" in procs.command_line(pid).split()]
    return found or [gateway.process.pid]


def one_round(bench: Bench, gateway: Gateway, rate: float, seconds: float, pages: int, scopes: int) -> dict[str, float]:
    """Figures of one round."""
    password = (gateway.home / "secrets" / "console_password").read_text().strip()
    opened = Pages(gateway.control_url, password, pages, scopes) if pages else None
    time.sleep(WARM_S)
    own, control = gateway.pids(), control_of(gateway)
    rest = [pid for pid in gateway.rest() if pid not in control]
    before = [procs.cpu(pids).total_us for pids in (own, control, rest)]
    events, size = (opened.events, opened.bytes) if opened is not None else (0, 0)
    began = time.monotonic()
    bench.order(gateway, "forget")  # connections that were idle since the round before may be closed
    answer = bench.order(gateway, "rate", rate=rate, seconds=seconds)
    refuse_faults(gateway, answer)
    took = time.monotonic() - began
    used = [procs.cpu(pids).total_us - at for pids, at in zip((own, control, rest), before, strict=True)]
    out = {
        "gateway_cpu_us_per_call": used[0] / answer["count"],
        "control_cpu_percent": used[1] / took / 1e4,
        "database_cpu_percent": used[2] / took / 1e4,
        "control_rss_mb": procs.rss_mb(control),
        "p50_ms": answer["p50_ms"],
        "p99_ms": answer["p99_ms"],
    }
    if opened is not None:
        out["events_per_page_per_s"] = (opened.events - events) / pages / took
        out["kb_per_page_per_s"] = (opened.bytes - size) / 1000 / pages / took
        opened.close()
        out["longest_silence_s"] = opened.silent_s
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=50)
    parser.add_argument("--scopes", type=int, choices=range(1, len(BY) + 1), default=1)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=8.0, help="below 10: idle connections end")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(dataclasses.replace(SMOKE))
        gateway = Gateway(bench.engine_port, Path(folder), {"INTERLOCK_CONSOLE_STREAMS_OWN_MAX": str(given.pages)})
        rounds: dict[int, list[dict[str, float]]] = {0: [], given.pages: []}
        try:
            bench.order(gateway, "rate", rate=given.rate, seconds=3)
            for number in range(given.rounds):
                for pages in (0, given.pages) if number % 2 == 0 else (given.pages, 0):
                    found = one_round(bench, gateway, given.rate, given.seconds, pages, given.scopes)
                    rounds[pages].append(found)
                    say(f"round {number + 1}, {pages} pages: " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()))
        finally:
            gateway.stop()
            bench.close()
    result: dict[str, Any] = {
        "pages": given.pages,
        "scopes": given.scopes,
        "calls_per_s": given.rate,
        "without": medians(rounds[0]),
        "with": medians(rounds[given.pages]),
        "ratios": {
            name: round(statistics.median(w[name] / o[name] for o, w in zip(*rounds.values(), strict=True)), 3)
            for name in ("gateway_cpu_us_per_call", "p50_ms", "p99_ms")
        },
    }
    text = json.dumps(result, indent=2)
    if given.out:
        given.out.write_text(text + "\n")
    print(text)


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: round(statistics.median(each[name] for each in rounds), 3) for name in rounds[0]}


if __name__ == "__main__":
    main()
