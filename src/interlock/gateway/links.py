"""A worker's link to one source: its connection pool, its row on the board, what requests to it look like."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from interlock.gateway.http.exchange import header_line
from interlock.gateway.speech import SPEECHES
from interlock.metering.cost import Rates
from interlock.metering.energy import Estimate
from interlock.sources.requests import build_head
from interlock.sources.transport import Deadlines, Pool, deadlines_of, target_of

if TYPE_CHECKING:
    from interlock.settings import Settings
    from interlock.sources.credentials import CredentialStore
    from interlock.types.source import Offer, Source


class Meters(NamedTuple):
    """Rates and energy coefficients of one model at one source, made ready."""

    rates: Rates
    estimate: Estimate


class Link:
    """One source as a worker reaches it. Kept over snapshots as long as the source itself does not change.

    `row`: the source's row on the board. `cap`: calls in flight per node, None without a limit. `speech`: how the
    source is spoken to; None: in the pivot.
    """

    __slots__ = (
        "_credentials",
        "_meters",
        "_offer_headers",
        "cap",
        "deadlines",
        "deadlines_whole",
        "off_prem",
        "pool",
        "row",
        "source",
        "speech",
    )

    def __init__(self, source: Source, pool: Pool, row: int, credentials: CredentialStore, settings: Settings) -> None:
        self.source = source
        self.speech = SPEECHES.get(source.kind)
        self.pool = pool
        self.row = row
        self.cap = source.limits.concurrency
        self.off_prem = not source.labels.on_prem
        self.deadlines: Deadlines = deadlines_of(source, settings)
        # The first byte of a whole answer comes when all of it has been generated.
        self.deadlines_whole = self.deadlines._replace(first_event_s=self.deadlines.total_s)
        self._credentials = credentials
        self._offer_headers: dict[str, bytes] = {}
        self._meters: dict[str, Meters] = {}

    def head(self, path: str, length: int, extra: list[tuple[bytes, bytes]]) -> bytes:
        """The head of a request. Raises UpstreamError when the credential cannot be read."""
        return build_head(self.source, path, length, self._credentials.header(self.source), extra)

    def meters(self, offer: Offer) -> Meters:
        """What makes cost and energy of the usage of this model here."""
        meters = self._meters.get(offer.model.name)
        if meters is None:
            meters = self._meters[offer.model.name] = Meters(Rates(offer.model.price), Estimate(offer.model.power))
        return meters

    def offer_headers(self, offer: Offer) -> bytes:
        """The answer's header lines that name this source and model."""
        lines = self._offer_headers.get(offer.model.name)
        if lines is None:
            lines = header_line(b"x-interlock-source", header_value(self.source.name))
            lines += header_line(b"x-interlock-model", header_value(offer.model.name))
            self._offer_headers[offer.model.name] = lines
        return lines


def header_value(text: str) -> bytes:
    """A name as a header value: printable Latin-1, anything else as "?"."""
    return "".join(c if c.isprintable() else "?" for c in text).encode("latin-1", "replace")


def open_link(
    source: Source, row: int, credentials: CredentialStore, settings: Settings, loop: asyncio.AbstractEventLoop
) -> Link:
    """A link with a fresh pool. Nothing is connected before the first call."""
    return Link(source, Pool(target_of(source, credentials), settings, loop), row, credentials, settings)
