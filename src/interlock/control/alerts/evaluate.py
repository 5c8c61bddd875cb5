"""What becomes of one thing that a rule watches. Pure.

A rule fires after its value has been at the threshold or above in every known reading of `for_s` seconds, and is over
after it has been below for as long. A reading that is missing says nothing: it ends a beginning, keeps what fires
firing, and is never taken for a good one.
"""

from __future__ import annotations

from msgspec.structs import replace

from interlock.types.alert import AlertRule, AlertState, Happening, Reading

NS = 1_000_000_000


def evaluate(
    rule: AlertRule, reading: Reading | None, state: AlertState, now_ns: int
) -> tuple[AlertState, Happening | None]:
    """The state after a reading at `now_ns` (Unix nanoseconds), and what happened. `reading` None: the thing is not
    there any more, or nobody watches it: what fires is over.

    INVARIANT: `firing` happens once an episode, and never before `for_s`; at most one thing happens at a time.
    """
    now_ns = max(now_ns, state.since_ns, state.turned_ns, state.unknown_ns)
    if reading is None:
        return _gone(state, now_ns)
    if reading.value is None:
        return _unknown(rule, state, now_ns)
    after = replace(state, value=reading.value, words=reading.words, unknown_ns=0, no_data=False)
    if state.no_data:
        back = Happening("data_back", state.episode, reading.value, reading.words, state.told)
        return replace(after, told=False), back
    after = _turned(rule, after, now_ns)
    if after.turned_ns == 0 or now_ns - after.turned_ns < rule.for_s * NS:
        return _pending(after, now_ns) if after.status != "firing" else _again(rule, after, now_ns)
    return _over(after, now_ns) if after.status == "firing" else _fires(rule, after, now_ns)


def _turned(rule: AlertRule, state: AlertState, now_ns: int) -> AlertState:
    """Since when the value is on the other side than the status says."""
    on_the_other = (state.value >= rule.threshold) != (state.status == "firing")
    if not on_the_other:
        return replace(state, turned_ns=0)
    return state if state.turned_ns else replace(state, turned_ns=now_ns)


def _pending(state: AlertState, now_ns: int) -> tuple[AlertState, None]:
    """It does not fire: either a beginning, or not even that."""
    if state.turned_ns:
        return (state, None) if state.status == "pending" else (replace(state, status="pending", since_ns=now_ns), None)
    if state.status in ("pending", "gone") or not state.since_ns:
        return replace(state, status="ok", since_ns=now_ns), None
    return state, None


def _fires(rule: AlertRule, state: AlertState, now_ns: int) -> tuple[AlertState, Happening]:
    told = not _silenced(rule, now_ns)
    after = replace(
        state, status="firing", since_ns=now_ns, turned_ns=0, episode=state.episode + 1, told=told
    )  # fmt: skip
    return after, Happening("firing", after.episode, after.value, after.words, told)


def _again(rule: AlertRule, state: AlertState, now_ns: int) -> tuple[AlertState, Happening | None]:
    """It goes on firing. What nobody was told because of a silence is told when that ends."""
    if state.told or _silenced(rule, now_ns):
        return state, None
    return replace(state, told=True), Happening("still_firing", state.episode, state.value, state.words, True)


def _over(state: AlertState, now_ns: int) -> tuple[AlertState, Happening]:
    after = replace(state, status="resolved", since_ns=now_ns, turned_ns=0, told=False)
    return after, Happening("resolved", state.episode, state.value, state.words, state.told)


def _gone(state: AlertState, now_ns: int) -> tuple[AlertState, Happening | None]:
    if state.status == "gone":
        return state, None
    words = "it is not watched any more"
    after = AlertState("gone", now_ns, state.value, words, episode=state.episode)
    if state.status == "firing":
        return after, Happening("resolved", state.episode, state.value, words, state.told)
    return after, Happening("data_back", state.episode, state.value, words, state.told) if state.no_data else None


def _unknown(rule: AlertRule, state: AlertState, now_ns: int) -> tuple[AlertState, Happening | None]:
    after = replace(state, turned_ns=0, unknown_ns=state.unknown_ns or now_ns, since_ns=state.since_ns or now_ns)
    if after.status == "gone":
        after = replace(after, status="ok", since_ns=now_ns)
    long = rule.no_data_s and now_ns - after.unknown_ns >= rule.no_data_s * NS
    if after.no_data or not long or after.status == "firing":
        return after, None
    # an episode of its own, so that the next loss of data is another event
    after = replace(after, no_data=True, episode=after.episode + 1, told=not _silenced(rule, now_ns))
    words = f"it could not be read for {rule.no_data_s} s"
    return after, Happening("no_data", after.episode, after.value, words, after.told)


def _silenced(rule: AlertRule, now_ns: int) -> bool:
    return now_ns < rule.silenced_until_ns
