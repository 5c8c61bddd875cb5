"""In whatever order judges and people speak: what counts is what is said by those who are believed, and only that."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.learning.remembered import Remembered
from interlock.learning.trainer import Outcome

_JUDGES = ("", "a", "b", "c")
_said = st.lists(st.one_of(st.sampled_from(_JUDGES), st.tuples(st.sampled_from(_JUDGES[1:]), st.booleans())))


@given(_said, st.integers(1, 40))
@settings(max_examples=300)
def test_who_is_believed_counts_in_the_order_told_and_who_is_not_is_laid_aside(
    story: list[str | tuple[str, bool]], most: int
) -> None:
    """As many as are told fit, or the last ones of both kinds: nobody's words push out those of the other kind."""
    for room in (len(story) + 1, most):
        kept, trusted, told = Remembered(room), dict.fromkeys(_JUDGES[1:], True), []
        for each in story:
            if isinstance(each, tuple):
                trusted[each[0]] = each[1]
                kept.hold(trusted)
            else:
                told.append(Outcome("m", len(told), "judge" if each else "feedback", None, judge=each))
                if trusted.get(each, True):
                    kept.take(told[-1])
                else:
                    kept.lay_aside(told[-1])
            counting, places = list(kept), [seen.reward for seen in kept]
            assert all(trusted.get(seen.judge, True) for seen in counting) and places == sorted(set(places))
            assert len(kept) <= room and kept.aside <= room
            if room > len(story):
                assert counting == [seen for seen in told if trusted.get(seen.judge, True)]
                assert len(kept) + kept.aside == len(told)
