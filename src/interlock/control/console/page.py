"""What a page of the console is. Each module of pages has its own `PAGES`; app.py puts them together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit

Handler = Callable[["Visit", "Sessions"], "Response | Awaitable[Response]"]
"""A plain function runs on the thread pool, where it may wait for the database; a coroutine function, for answers that
go on for long, runs on the loop and must not block it. Either way the session has been looked up before."""


class Page(NamedTuple):
    """`path`: below /console. `open`: reached without signing in; such a page checks by itself what it changes.

    POSTs of pages that are not open carry the session's CSRF token, which is checked before the handler is called.
    """

    method: str
    path: str
    handler: Handler
    open: bool = False
