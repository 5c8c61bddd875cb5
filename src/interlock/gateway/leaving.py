"""Headers by which an alias says that it will go: RFC 9745 (`deprecation`), RFC 8594 (`sunset`)."""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import quote

from interlock.gateway.http.exchange import header_line

if TYPE_CHECKING:
    from interlock.types.snapshot import Alias


def leaving(alias: Alias) -> bytes:
    """The header lines of an answer through this alias; b"" for one that stays."""
    lines = b""
    if alias.deprecated_s:
        lines += header_line(b"deprecation", b"@%d" % alias.deprecated_s)
    if alias.sunset_s:
        lines += header_line(b"sunset", formatdate(alias.sunset_s, usegmt=True).encode())
    if lines and alias.successor:
        where = f'</v1/models/{quote(alias.successor, safe="/:@")}>; rel="successor-version"'
        lines += header_line(b"link", where.encode())
    return lines
