"""A call that waits for its share of a budget, for at most `lease_wait_ms`; then it runs, or is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from interlock.errors import InterlockError, Unavailable
from interlock.gateway.stages.budget import reserve

if TYPE_CHECKING:
    from interlock.gateway.call import Call
    from interlock.gateway.http.exchange import Exchange
    from interlock.gateway.runtime import Runtime
    from interlock.gateway.treasury import Short

log = logging.getLogger("interlock.gateway")


class ClientGone(InterlockError):
    """The caller went away while its call waited."""

    code, status, level = "client_disconnected", 499, logging.INFO


def shutdown_error() -> Unavailable:
    """What a call is cut with when the grace of a stop is over."""
    return Unavailable("The gateway is shutting down; try again.", code="draining")


class Waits(Protocol):
    """What the runtime knows of anything that waits for the node. `call_number`: of the call that has no record yet
    because of it, 0: of none."""

    call_number: int

    def sweep(self, now_ns: int) -> None:
        """Give up when it has waited for too long. Called several times a second."""

    def end(self, error: InterlockError) -> None:
        """Give up now."""

    def told(self) -> tuple[Call, str] | None:
        """For people who watch: the call that waits, and for what. None when it is no call, or one that runs."""


class Waiting:
    """The exchange of such a call. Once it runs, what the caller does reaches the run."""

    def __init__(
        self,
        call: Call,
        runtime: Runtime,
        go: Callable[[Call, Runtime], Exchange | None],
        refuse: Callable[[Call, InterlockError, Runtime], None],
    ) -> None:
        """`go` runs the call; `refuse` answers with an error. One of them is called, once."""
        self._call = call
        self.call_number = call.number
        self._runtime = runtime
        self._go = go
        self._refuse = refuse
        self._exchange: Exchange | None = None
        self._paused = False
        self._over = False
        self._deadline_ns = runtime.clock.mono_ns() + runtime.settings.lease_wait_ms * 1_000_000

    def begin(self, short: Short) -> None:
        """Ask for what is short."""
        self._runtime.waiting.add(self)
        self._runtime.metrics.budget_waits.add()
        self._runtime.treasury.want(short, self)

    def told(self) -> tuple[Call, str]:
        """See Waits."""
        return self._call, "a share of a budget"

    def again(self) -> None:
        """Something has changed: the share may be large enough, or it is known that it will not be."""
        if self._over:
            return
        self._call.wall_ns = self._runtime.clock.wall_ns()  # it is admitted when it has its share
        try:
            short = reserve(self._call, self._runtime)
        except InterlockError as error:
            self.end(error)
            return
        except Exception:
            log.exception("stage failed", extra={"request_id": self._call.id})
            self.end(self._call.defect())
            return
        if short is not None:
            self._runtime.treasury.want(short, self)
            return
        self._leave()
        exchange = self._exchange = self._go(self._call, self._runtime)
        if self._paused and exchange is not None:
            exchange.on_pause()

    def sweep(self, now_ns: int) -> None:
        """Refuse the call when it has waited for too long."""
        if now_ns >= self._deadline_ns:
            self.end(
                Unavailable(
                    "No share of a budget that this call counts on could be had in time; try again.",
                    code="budget_unavailable",
                    headers={"retry-after": "1"},
                )
            )

    def end(self, error: InterlockError) -> None:
        """Refuse the call now."""
        if not self._over:
            self._runtime.treasury.forget(self)
            self._leave()
            self._refuse(self._call, error, self._runtime)

    def on_disconnect(self) -> None:
        """See Exchange."""
        if self._exchange is not None:
            self._exchange.on_disconnect()
        else:
            self.end(ClientGone("The caller went away before the call was made."))

    def on_pause(self) -> None:
        """See Exchange."""
        self._paused = True
        if self._exchange is not None:
            self._exchange.on_pause()

    def on_resume(self) -> None:
        """See Exchange."""
        self._paused = False
        if self._exchange is not None:
            self._exchange.on_resume()

    def _leave(self) -> None:
        self._over = True
        self._runtime.waiting.discard(self)
