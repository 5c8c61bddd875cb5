"""The form of API keys."""

from __future__ import annotations

import random
import zlib

import pytest

from interlock.types import apikey


def _key(seed: int = 1, env: str = "live") -> str:
    return apikey.mint(env, random.Random(seed).randrange)


def test_a_minted_key_is_well_formed_and_has_the_documented_form() -> None:
    key = _key()
    assert apikey.well_formed(key)
    assert key.startswith("il_live_")
    assert len(key) == len("il_live_") + 30 + 6
    assert apikey.shown(key) == key[:12]


def test_checksum_is_the_crc32_of_zlib_in_base62() -> None:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number = 0
    for c in apikey.checksum("il_live_abc"):
        number = number * 62 + digits.index(c)
    assert number == zlib.crc32(b"il_live_abc")


def test_every_single_character_change_is_noticed() -> None:
    key = _key(7)
    for i, old in enumerate(key):
        for new in "0aZ_":
            if new != old:
                assert not apikey.well_formed(key[:i] + new + key[i + 1 :])


@pytest.mark.parametrize(
    "text", ["", "il_live_", "sk-abc", "il_live_" + "0" * 36, "il_LIVE_" + "0" * 36, _key() + "\n"]
)
def test_other_text_is_not_a_key(text: str) -> None:
    assert not apikey.well_formed(text)


@pytest.mark.parametrize("env", ["", "Live", "a b", "x" * 13, "a_b"])
def test_an_environment_of_another_form_is_refused(env: str) -> None:
    with pytest.raises(ValueError, match="key environment"):
        _key(env=env)
