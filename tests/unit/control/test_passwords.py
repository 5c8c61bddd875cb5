"""Passwords of the console: nobody has the one that strangers' are held against, and it costs what others cost."""

from __future__ import annotations

import re

from argon2 import PasswordHasher, extract_parameters

from interlock.control.console.passwords import NOBODY, hash_password, verify


def test_where_there_is_no_account_the_work_is_that_of_an_account() -> None:
    made = hash_password("correct horse battery")
    assert extract_parameters(NOBODY) == extract_parameters(made)
    assert not PasswordHasher().check_needs_rehash(NOBODY)
    salts, digests = zip(
        *(re.fullmatch(r".*\$([^$]+)\$([^$]+)", each).groups() for each in (NOBODY, made)), strict=True
    )
    assert len(set(map(len, salts))) == len(set(map(len, digests))) == 1


def test_a_password_is_right_for_its_account_only() -> None:
    made = hash_password("correct horse battery")
    assert verify(made, "correct horse battery")
    assert not verify(made, "correct horse batterz")
    assert not verify(None, "correct horse battery")
    assert not verify(None, "")
