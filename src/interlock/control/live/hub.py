"""Sends what happens to open pages: each second a view is rendered once for all who see the same, and its bytes go out.

A page gets all sections first, then those that changed. What a page has not read is bounded: after `EVENTS_MAX` events
it is let go.
"""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from interlock.control.live.feed import LiveFeed
from interlock.control.live.figures import Point
from interlock.control.live.view import Scope, View
from interlock.control.services.looks import Watching
from interlock.errors import LimitExceeded, Unavailable
from interlock.settings import Settings

EVENTS_MAX = 5
Render = Callable[[Scope, View], Mapping[str, str]]
"""HTML of each section of a page, by the section's name. The same for all pages of a scope."""


class Event(NamedTuple):
    """`data`: as it goes out (WHATWG HTML, server-sent events). `tenants`: names of those whose calls are in it."""

    data: bytes
    tenants: tuple[str, ...] = ()


END = Event(b"")


class _Sent(NamedTuple):
    sections: Mapping[str, str]
    points: frozenset[Point]


class Subscriber:
    """An open page. `events` is filled on its loop; when `lost`, nothing more comes."""

    def __init__(self, scope: Scope, who: str, render: Render) -> None:
        self.scope = scope
        self.render = render
        self.who = who
        self.loop = asyncio.get_running_loop()
        self.lost = False
        self._events: collections.deque[Event] = collections.deque()
        self._ready = asyncio.Event()

    def put(self, event: Event) -> None:
        """Have an event wait for the page; on its loop."""
        if len(self._events) >= EVENTS_MAX or event is END:
            self.lost = True
            self._events.clear()
        elif not self.lost:
            self._events.append(event)
        self._ready.set()

    async def get(self, wait_s: float) -> Event | None:
        """The next event; None when none came in time, or none will."""
        try:
            async with asyncio.timeout(wait_s):
                while not self._events and not self.lost:
                    self._ready.clear()
                    await self._ready.wait()
        except TimeoutError:
            return None
        return self._events.popleft() if self._events else None


class Hub:
    """The open pages of one control process."""

    def __init__(self, feed: LiveFeed, settings: Settings) -> None:
        self.feed = feed
        self.watching = Watching()
        self._settings = settings
        self._lock = threading.Lock()
        self._open: dict[Scope, set[Subscriber]] = {}
        self._sent: dict[Scope, _Sent] = {}
        feed.listen(self.tick)

    def join(self, scope: Scope, who: str, render: Render) -> Subscriber:
        """A page opens its stream; call `leave` when it ends. On the page's loop. Raises LimitExceeded when this
        visitor has too many, Unavailable when this process has, or is about to end."""
        most, own = self._settings.console_streams_max, self._settings.console_streams_own_max
        with self._lock:
            every = [each for group in self._open.values() for each in group]
            if sum(each.who == who for each in every) >= own:
                raise LimitExceeded(
                    f"{own} live pages of yours are open; close one (console_streams_own_max)", code="streams_own_full"
                )
            if len(every) >= most or self.feed.stopped:
                raise Unavailable(
                    f"this control process has {len(every)} live pages open, its most (console_streams_max)",
                    code="streams_full",
                )
            made = Subscriber(scope, who, render)
            self._open.setdefault(scope, set()).add(made)
            return made

    def leave(self, subscriber: Subscriber) -> None:
        """The page is gone. Idempotent."""
        with self._lock:
            group = self._open.get(subscriber.scope, set())
            group.discard(subscriber)
            if not group:
                self._open.pop(subscriber.scope, None)
                self._sent.pop(subscriber.scope, None)

    @property
    def streams(self) -> int:
        """Pages that are open."""
        with self._lock:
            return sum(len(group) for group in self._open.values())

    def whole(self, page: Subscriber) -> Event:
        """All sections as they are now. Call after `join`, so that nothing after them is missed."""
        view = self.feed.view(page.scope)
        return _event(page.render(page.scope, view), view.points, view)

    def tick(self) -> None:
        """Send what changed. On the feed's thread, each second; once more when the feed stops."""
        with self._lock:
            scopes = {scope: list(group) for scope, group in self._open.items()}
        for scope, group in scopes.items():
            event = END if self.feed.stopped else self._changed(scope, group[0].render)
            if event is None:
                continue
            for each in group:
                try:
                    each.loop.call_soon_threadsafe(each.put, event)
                except RuntimeError:  # its loop has ended
                    self.leave(each)

    def _changed(self, scope: Scope, render: Render) -> Event | None:
        view = self.feed.view(scope)
        sections = render(scope, view)
        before = self._sent.get(scope)
        with self._lock:
            if scope in self._open:
                self._sent[scope] = _Sent(sections, frozenset(view.points))
        if before is None:
            return _event(sections, view.points, view)
        changed = {name: html for name, html in sections.items() if before.sections.get(name) != html}
        fresh = [point for point in view.points if point not in before.points]
        return _event(changed, fresh, view) if changed or fresh else None


class _Payload(msgspec.Struct, frozen=True):
    sections: Mapping[str, str]
    points: list[Point]
    window_s: int


_encode = msgspec.json.Encoder().encode


def _event(sections: Mapping[str, str], points: list[Point], view: View) -> Event:
    data = b"event: live\ndata: " + _encode(_Payload(sections, points, view.window_s)) + b"\n\n"
    tenants = view.looked_at if sections.keys() & {"calls", "running"} else ()
    return Event(data, tuple(sorted(tenants)))
