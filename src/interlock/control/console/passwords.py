"""Passwords of console accounts: argon2id (RFC 9106), with limits on what is tried."""

from __future__ import annotations

import datetime

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from interlock.errors import BadRequest

PASSWORD_CHARACTERS_MIN = 12
PASSWORD_CHARACTERS_MAX = 256
FREE_TRIES = 5
"""Wrong passwords in a row before the account waits."""
LOCK_S = 30
LOCK_S_MAX = 300
"""The wait doubles with each further wrong password, up to this."""

_hasher = PasswordHasher()
NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$+6M/XUQZtLikPsEZcrvqkQ$lhhRK0D+pdsLZcQbhgq3Wp/mwbtuM1HzaCR+q5vVzlA"
"""Verified against where there is no such account, so that the time does not tell: the hash of 32 random bytes that
were not kept, with the hasher's parameters. Making one at each start would take as long as a sign-in."""


def hash_password(password: str) -> str:
    """The argon2id hash with its parameters. Raises BadRequest for one that is too short or too long."""
    if not PASSWORD_CHARACTERS_MIN <= len(password) <= PASSWORD_CHARACTERS_MAX:
        raise BadRequest(
            f"a password has {PASSWORD_CHARACTERS_MIN} to {PASSWORD_CHARACTERS_MAX} characters", param="password"
        )
    return _hasher.hash(password)


def verify(password_hash: str | None, password: str) -> bool:
    """Whether the password is right. With None: False, after the same work."""
    if len(password) > PASSWORD_CHARACTERS_MAX:
        password = ""
    try:
        _hasher.verify(password_hash or NOBODY, password)
    except (VerifyMismatchError, VerificationError, InvalidHashError):
        return False
    return password_hash is not None


def locked_until(failures: int, now: datetime.datetime) -> datetime.datetime:
    """Until when no password is looked at after so many wrong ones in a row."""
    over = failures - FREE_TRIES
    if over < 0:
        return now
    return now + datetime.timedelta(seconds=min(LOCK_S << min(over, 10), LOCK_S_MAX))
