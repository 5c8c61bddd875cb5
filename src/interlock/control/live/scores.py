"""What outcomes have shown of each model in each task of a tenant, for the live view: read seldom."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import psycopg

from interlock.control.live.quality import Score
from interlock.control.services import router, router_quality
from interlock.control.services.base import Tools
from interlock.errors import InterlockError
from interlock.storage import learned
from interlock.storage import router_quality as stored
from interlock.storage.pool import Store
from interlock.types.quality import Qualities

READ_S = 30.0
"""How long what was read is shown."""
TENANTS_MAX = 256
SCORES_MAX = 40
"""Pairs of model and task, those of most outcomes."""


class TaskScores:
    """`control.live.quality.Scores` of what learners have published. Any thread may ask."""

    def __init__(self, store: Store, tools: Tools) -> None:
        self._store = store
        self._clock = tools.clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, list[Score]]] = {}

    def __call__(self, tenant_id: str, /) -> Sequence[Score]:
        """Of one tenant; none of all of them, as each has tasks of its own. While the database is away, the last."""
        if not tenant_id:
            return []
        now_s = self._clock.mono_ns() / 1e9
        with self._lock:
            at_s, known = self._known.pop(tenant_id, (now_s - READ_S, []))
            if now_s - at_s >= READ_S:
                at_s, known = now_s, self._read(tenant_id, known)
            self._known[tenant_id] = (at_s, known)
            if len(self._known) > TENANTS_MAX:
                self._known.pop(next(iter(self._known)))
            return known

    def _read(self, tenant_id: str, before: list[Score]) -> list[Score]:
        try:
            with self._store.tenant(tenant_id) as conn:
                found = stored.current(conn, tenant_id)
                state = router.shown(learned.current(conn, tenant_id), {}, router.ON)
        except (InterlockError, psycopg.Error):
            return before
        return scores(found, {str(task.number): task.words for task in state.tasks})


def scores(found: Qualities | None, words: dict[str, str]) -> list[Score]:
    """Models in the tasks of a state, by task; `words`: how prompts of each differ from the others. Pure."""
    rows = router_quality.seen(found.cells, ("task", "model")) if found is not None else []
    most = sorted(range(len(rows)), key=lambda at: -rows[at].count)[:SCORES_MAX]
    return [_score(rows[at], words) for at in sorted(most)]


def _score(row: router_quality.QualityRow, words: dict[str, str]) -> Score:
    mean, low, high = (round(micro / 1000) for micro in (row.mean_micro, row.low_micro, row.high_micro))
    return Score(row.by["model"], task_named(row.by["task"], words), mean, low, high, int(row.count), row.sources)


def task_named(task: str, words: dict[str, str]) -> str:
    """What a task is called where there is no table of them."""
    if not task:
        return "not known"
    return f"{task}: {words[task]}" if words.get(task) else task
