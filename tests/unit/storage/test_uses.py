"""What a batch uses is brought once, with the newest day of each class, in the order of its key."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from interlock.storage.shipping import Uses

USE = st.tuples(
    st.sampled_from(["ten_a", "ten_b"]),
    st.sampled_from(["prn_1", "prn_2"]),
    st.lists(st.sampled_from([(b"1", b"one"), (b"2", b"two"), (b"3", b"three")]), max_size=4),
    st.integers(0, 3),
    st.integers(0, 200),
)


@given(st.lists(USE, max_size=30))
def test_each_once_with_the_newest_day_of_each_class(
    uses: list[tuple[str, str, list[tuple[bytes, bytes]], int, int]],
) -> None:
    made = Uses()
    expected: dict[tuple[str, str, bytes, bytes], dict[int, int]] = {}
    for tenant_id, subject, items, data_class, day in uses:
        made.add(tenant_id, subject, [(*item, b"more") for item in items], data_class, day)
        for item in items:
            days = expected.setdefault((tenant_id, subject, *item), {})
            days[data_class] = max(day, days.get(data_class, 0))
    rows = made.rows(2)
    assert rows == sorted(rows, key=lambda row: row[:3])
    assert rows == [(*key, *map(days.get, range(4))) for key, days in sorted(expected.items())]
    assert {row[:2] for row in rows} <= made.subjects
