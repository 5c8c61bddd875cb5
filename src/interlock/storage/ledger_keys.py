"""The keys of recorded contents: made on first use, kept wrapped in the database, unwrapped only in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from psycopg import Connection

from interlock.errors import ConfigError
from interlock.ledger.vault import (
    KEY_BYTES,
    KeyWrapper,
    SealedLately,
    SubjectKey,
    VaultError,
    Wrapper,
    subject_context,
    tenant_context,
)
from interlock.storage import shipping

GENERATION = "\x1f"
"""Between a subject and the number of its key, from the second on: no id has this character."""
TENANT = ""
"""The subject under which a tenant's own key is kept."""


class Erased(VaultError):
    """The key was destroyed, at `at_ns` (Unix ns)."""

    at_ns = 0


def read_key(path: Path, what: str) -> bytes:
    """A 32-byte key from a file of 64 hexadecimal characters. Raises ConfigError."""
    try:
        text = path.read_text("ascii").strip()
        key = bytes.fromhex(text)
    except OSError as e:
        raise ConfigError(f"{path}: {what} cannot be read: {e.strerror}", param=str(path)) from None
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path}: {what} must be {2 * KEY_BYTES} hexadecimal characters", param=str(path))
    return key


class Held(NamedTuple):
    """What a subject's contents are sealed with: the key, its name, and when earlier ones of the subject were
    destroyed (Unix ns, 0: never): of what was said until then nothing is kept."""

    name: str
    key: SubjectKey
    erased_ns: int


class LedgerKeys:
    """Subjects' keys, by tenant and subject; the least recently used are forgotten first. One thread uses it.

    `making`: a transaction in which new keys are kept; without it none is made. It is one of its own: a key must be
    safe before anything is encrypted under it, whatever becomes of that. `sealed_bytes_max`: see `SealedLately`.
    """

    def __init__(
        self,
        master: Wrapper,
        random: Callable[[int], bytes],
        keys_max: int,
        making: Callable[[], AbstractContextManager[Connection[Any]]] | None = None,
        *,
        sealed_bytes_max: int = 0,
    ) -> None:
        self._lately = SealedLately(sealed_bytes_max) if sealed_bytes_max else None
        self._making = making
        self._master = master
        self._random = random
        self._max = keys_max
        self._tenants: OrderedDict[str, KeyWrapper] = OrderedDict()
        self._subjects: OrderedDict[tuple[str, str], Held] = OrderedDict()

    def named(self, conn: Connection[Any], tenant_id: str, name: str) -> SubjectKey:
        """A key by its name, to open what was sealed with it.

        Raises Erased when it was destroyed, VaultError when it does not open or does not exist.
        """
        wrapper = self._tenant(conn, tenant_id)
        return SubjectKey(self._key(conn, wrapper, tenant_id, name, subject_context(tenant_id, name)))

    def of(self, conn: Connection[Any], tenant_id: str, subject: str) -> Held:
        """What a subject's contents are sealed with now; a first use makes a key, and so does one after an erasure.

        Raises VaultError when it does not open or (without `making`) does not exist.
        """
        known = self._subjects.get((tenant_id, subject))
        if known is not None:
            self._subjects.move_to_end((tenant_id, subject))
            return known
        wrapper = self._tenant(conn, tenant_id)
        erased_ns, generation = 0, 1
        while True:
            name = subject if generation == 1 else f"{subject}{GENERATION}{generation}"
            try:
                key = self._key(conn, wrapper, tenant_id, name, subject_context(tenant_id, name))
                break
            except Erased as e:
                erased_ns, generation = max(erased_ns, e.at_ns), generation + 1
        known = self._subjects[tenant_id, subject] = Held(name, SubjectKey(key, self._lately), erased_ns)
        if len(self._subjects) > self._max:
            self._subjects.popitem(last=False)
        return known

    def forget(self) -> None:
        """Look every subject up again: some may have been erased."""
        self._subjects.clear()
        if self._lately is not None:
            self._lately.clear()

    def _tenant(self, conn: Connection[Any], tenant_id: str) -> KeyWrapper:
        known = self._tenants.get(tenant_id)
        if known is None:
            key = self._key(conn, self._master, tenant_id, TENANT, tenant_context(tenant_id))
            known = self._tenants[tenant_id] = KeyWrapper(key, self._random)
            if len(self._tenants) > self._max:
                self._tenants.popitem(last=False)
        return known

    def _key(self, conn: Connection[Any], wrapper: Wrapper, tenant_id: str, subject: str, context: str) -> bytes:
        row = shipping.key_row(conn, tenant_id, subject)
        if row is None and self._making is not None:
            with self._making() as own:
                shipping.keep_key(own, tenant_id, subject, wrapper.wrap(self._random(KEY_BYTES), context))
            row = shipping.key_row(conn, tenant_id, subject)
        if row is None:
            raise VaultError(f"there is no key of {context}")
        if not row.wrapped:
            error = Erased(f"the key of {context} was destroyed")
            error.at_ns = row.erased_ns
            raise error
        return wrapper.unwrap(row.wrapped, context)
