"""A bounded map keeps what is used."""

from __future__ import annotations

from interlock.policy.cache import Generations


def test_it_never_holds_more_than_its_size() -> None:
    cache: Generations[int, int] = Generations(10)
    for i in range(1000):
        cache.put(i, i)
        assert len(cache) <= 10
    assert cache.get(999) == 999
    assert cache.get(0) is None


def test_what_is_used_stays() -> None:
    cache: Generations[int, int] = Generations(10)
    cache.put(-1, -1)
    for i in range(1000):
        cache.put(i, i)
        assert cache.get(-1) == -1


def test_a_new_value_replaces_the_old_one_in_both_halves() -> None:
    cache: Generations[str, int] = Generations(2)
    cache.put("a", 1)
    cache.put("b", 1)
    cache.put("a", 2)
    assert cache.get("a") == 2
    cache.clear()
    assert (cache.get("a"), len(cache)) == (None, 0)


def test_the_young_half_stays_the_same_object() -> None:
    cache: Generations[int, int] = Generations(4)
    young = cache.young
    for i in range(20):
        cache.put(i, i)
        assert young[i] == i
