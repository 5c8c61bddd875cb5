"""Where a webhook is: sealed under the master key of the installation, as what follows a URL's host is often secret."""

from __future__ import annotations

import hmac
import secrets

from interlock.control.services.base import Tools
from interlock.ledger.vault import KeyWrapper
from interlock.storage import alerts
from interlock.storage.ledger_keys import read_key
from interlock.storage.pool import Store
from interlock.types.alert import Channel, shown_url

MARK_BYTES = 8


def mark(url: str, channel_id: str, tools: Tools) -> str:
    """Tells in the list of changes that a URL is another one, and not which."""
    said = b"interlock alert url\0%b\0%b" % (channel_id.encode(), url.encode())
    return hmac.digest(tools.pepper, said, "sha256")[:MARK_BYTES].hex()


def seal(url: str, channel_id: str, tools: Tools) -> bytes:
    """Encrypted, and bound to its channel. Raises ConfigError without the key."""
    return _wrapper(tools).wrap(url.encode(), _context(channel_id))


def opened(channel: Channel, sealed: bytes | None, tools: Tools) -> str:
    """The URL of a channel. Raises ConfigError, VaultError."""
    if sealed is None:
        return channel.url  # from before there was a key; the next start seals it
    return _wrapper(tools).unwrap(sealed, _context(channel.id)).decode()


def seal_all(store: Store, tools: Tools) -> int:
    """Seal what an earlier version stored in the clear. How many that were."""
    with store.platform() as conn:
        clear = alerts.unsealed(conn)
        for each in clear:
            sealed = seal(each.url, each.id, tools)
            alerts.put_url(conn, each.id, sealed, shown_url(each.url), mark(each.url, each.id, tools))
    return len(clear)


def _wrapper(tools: Tools) -> KeyWrapper:
    return KeyWrapper(read_key(tools.settings.ledger_key_path(), "the ledger's master key"), secrets.token_bytes)


def _context(channel_id: str) -> str:
    return f"alert channel {channel_id}"
