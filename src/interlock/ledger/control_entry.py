"""Entries that the control plane makes: erasures, and administrative changes. Pure.

They are of one epoch, of no machine, and are written without a number: the sequencer, which works on a tree alone,
numbers them as it places them. So several control processes write at once, and no number is left out when one of their
transactions is rolled back.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from interlock.ledger.entry import VERSION, encode_leaf

EPOCH = "0000000000000000"
NODE = "(control)"
"""What stands for a node in the coverage of these entries; no machine is called so."""

SALT_BYTES = 32
ROWS_MAX = 500
"""Most rows that one entry speaks of."""

FREQUENT = frozenset({"ledger.search", "ledger.show", "ledger.replay", "source.observe"})
"""Operations that a program may cause all day: their entries wait for the next checkpoint and are joined."""

_EPOCH_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)
_ID = re.compile(r"[a-z]{2,5}_[0-9a-z]{1,40}|req_[0-9a-z]{16}_[0-9]{1,19}")


class Row(msgspec.Struct, frozen=True):
    """A row of the list of changes, as the database holds it. `at`: with a time zone; `before` and `after`: JSON."""

    id: int
    at: datetime
    tenant_id: str
    actor_id: str
    actor: str
    reason: str
    request_id: str
    action: str
    object_kind: str
    object_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    salt: bytes

    def digest(self) -> str:
        """HMAC-SHA256 of the canonical JSON of every field under the row's salt, in hex.

        It commits to the row. It tells nothing of it to who has not the salt, and nobody at all once that is deleted.
        """
        fields = {name: getattr(self, name) for name in self.__struct_fields__ if name not in ("at", "salt")}
        text = encode_leaf({**fields, "at": (self.at - _EPOCH_BEGIN) // timedelta(microseconds=1)})
        return hmac.new(self.salt, text, hashlib.sha256).hexdigest()


def change_leaf(tree: str, row: Row, at_ns: int) -> dict[str, Any]:
    """The leaf of a change, without its number. INVARIANT: no name, no reason and no value is in it; only ids are, and
    what an administrator typed in the place of an id is not."""
    object_id = row.object_id if _ID.fullmatch(row.object_id) else ""
    return {
        "v": VERSION,
        "tree": tree,
        "epoch": EPOCH,
        "kind": "change",
        "at": at_ns,
        "request": f"chg_{row.id}",
        "who": {"principal": row.actor_id},
        "what": {"operation": row.action, "object": row.object_kind},
        "rows": [{"id": row.id, "at": at_ns, "object": object_id, "digest": row.digest()}],
        "contents": [],
    }


def numbered(leaf: bytes, n: int) -> bytes:
    """The leaf with its number in `EPOCH`."""
    value: dict[str, Any] = msgspec.json.decode(leaf)
    return encode_leaf({**value, "epoch": EPOCH, "n": n})


def together(leaves: Iterable[bytes]) -> list[tuple[list[int], bytes]]:
    """Leaves of changes, joined where who and what are the same, at most `ROWS_MAX` rows in each.

    Returns, in the order of their firsts, (which of `leaves` by index, joined leaf). The joined one is of the earliest
    instant, so that a checkpoint which waits for it waits for all of them.
    """
    out: list[tuple[list[int], dict[str, Any]]] = []
    current: dict[bytes, int] = {}
    for index, leaf in enumerate(leaves):
        value: dict[str, Any] = msgspec.json.decode(leaf)
        key = encode_leaf({"who": value["who"], "what": value["what"]})
        place = current.get(key)
        if place is None or len(out[place][1]["rows"]) + len(value["rows"]) > ROWS_MAX:
            current[key] = len(out)
            out.append(([index], value))
            continue
        which, joined = out[place]
        which.append(index)
        joined["rows"] += value["rows"]
        joined["at"] = min(joined["at"], value["at"])
    return [(which, encode_leaf(value)) for which, value in out]
