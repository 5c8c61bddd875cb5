"""A learner over a real database, look by look, and entries for it to read."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from interlock.control.learning.loop import Learner
from interlock.learning.judged import CONTROLS_MIN
from interlock.storage import learned, router_quality
from interlock.types.learned import Weights
from interlock.types.quality import Qualities
from tests.integration.control_client import Admin, Running, control_over
from tests.integration.live_scene import add
from tests.unit.control.live.leaves import leaf

PUBLISH_MS = 100


class Scene:
    """A learner whose looks are counted, and entries for it to read."""

    def __init__(self, running: Running, people: dict[str, Admin]) -> None:
        self.people = people
        self.running = running
        self.store = running.control.store
        self.owner = running.owner
        with self.store.platform() as conn:
            self.ids: dict[str, str] = dict(conn.execute("SELECT name, id FROM interlock.tenants").fetchall())
            self.teams: dict[str, str] = dict(conn.execute("SELECT name, id FROM interlock.teams").fetchall())
            self.sources: dict[str, str] = dict(conn.execute("SELECT name, id FROM interlock.sources").fetchall())
        self.learner = Learner(self.store, running.control.settings, running.control.tools.clock)
        self.calls = 0

    def checked(
        self, tenant: str, arm: str, passed: int, failed: int = 0, *, team: str = "", source: str = "gpu"
    ) -> None:
        """Calls whose answers were checked."""
        leaves = []
        for good in [True] * passed + [False] * failed:
            self.calls += 1
            place = (self.sources[source], self.teams.get(team, ""))
            leaves.append(entry(self.calls, self.ids[tenant], arm, good, place))
        add(self.store, self.ids[tenant], *leaves)

    def scored(self, tenant: str, arm: str, pairs: Sequence[tuple[float, bool | None]], judge: str = "wise") -> None:
        """Calls, each with its score by a judge, from 0 to 1, and whether its caller likes it, if it says so.
        Before them, as many controls as it takes for scores to count, all at 0."""
        tenant_id, place = self.ids[tenant], (self.sources["gpu"], "")
        controls: list[tuple[float, bool, bool | None]] = [(0.0, True, None)] * CONTROLS_MIN
        asked = controls + [(score, False, liked) for score, liked in pairs]
        for score, control, liked in asked:
            self.calls += 2
            call = f"req_{self.calls}"
            made = json.loads(entry(self.calls, tenant_id, arm, True, place))
            del made["cascade"]
            said = {"prompt": 1, "score_micro": round(score * 1_000_000), "control": control}
            verdict = json.loads(entry(self.calls + 1, tenant_id, judge, True, place))
            del verdict["cascade"]
            verdict["judge_of"], verdict["result"]["judged"] = call, said
            add(self.store, tenant_id, json.dumps(made).encode(), json.dumps(verdict).encode())
            if liked is not None:
                self._liked(tenant_id, call, arm, liked)

    def _liked(self, tenant_id: str, request: str, arm: str, liked: bool) -> None:
        """As the sequencer counts a thumb, of a call whose entry is the last but one."""
        model, _, version = arm.partition("@")
        with self.store.sequencing() as conn:
            conn.execute(
                "INSERT INTO interlock.call_feedback (tenant_id, request, kind, digest, feedback_ids, call_subject,"
                " position, entry, at_ns, day, source, model, version, thumb, reward_micro)"
                " SELECT tenant_id, %(request)s, 'thumb', '', '{}', 'prn_1', size - 1, size - 1, 1, '2026-01-01',"
                " 'gpu', %(model)s, %(version)s, %(thumb)s, %(reward)s"
                " FROM interlock.ledger_trees WHERE tenant_id = %(tenant)s",
                {
                    "tenant": tenant_id,
                    "request": request,
                    "model": model,
                    "version": version,
                    "thumb": "up" if liked else "down",
                    "reward": 1_000_000 if liked else 0,
                },
            )

    def look(self) -> None:
        """Until everything is read; what is published is due."""
        time.sleep(PUBLISH_MS / 1000 + 0.05)
        while self.learner.look():
            pass

    def state(self, tenant: str) -> Weights | None:
        with self.store.tenant(self.ids[tenant]) as conn:
            return learned.current(conn, self.ids[tenant])

    def quality(self, tenant: str) -> Qualities | None:
        with self.store.tenant(self.ids[tenant]) as conn:
            return router_quality.current(conn, self.ids[tenant])


def entry(number: int, tenant_id: str, arm: str, passed: bool, place: tuple[str, str]) -> bytes:
    """A leaf of a call whose answer was found to be as asked, or not. `place`: ids of its source and its team."""
    source, team = place
    model, _, version = arm.partition("@")
    figures: dict[str, Any] = {
        "tokens": {"prompt": 9, "cached": 0, "completion": 3, "origin": "engine"},
        "cost": {"nusd": 5, "price": "source"},
        "energy": {"uj": 0, "method": ""},
    }
    step = {
        "model": model, "version": version, "given": True, "checks": ["json:passed" if passed else "json:failed"],
        **figures,
    }  # fmt: skip
    made = json.loads(
        leaf(number, time.time(), tree=tenant_id, request=f"req_{number}", what__operation="chat", who__team=team)
    )
    made["where"] |= {"source": source, "model": model, "version": version}
    made["result"] |= {"finish": ["stop"]}
    made |= {"contents": [], "decided": {"router": 0}, "cascade": {"tried": [step]}, **figures}
    return json.dumps(made).encode()


def erased(number: int, tenant_id: str) -> bytes:
    """An entry that says that somebody was erased."""
    made = {"v": 1, "tree": tenant_id, "kind": "erasure", "at": time.time_ns(), "request": f"req_{number}"}
    return json.dumps(made).encode()


@contextlib.contextmanager
def learner_over(url: str, text: str) -> Iterator[Scene]:
    """A control plane with this configuration, and a learner."""
    with control_over(url, learning_publish_ms=PUBLISH_MS) as running:
        key = Path(running.control.settings.ledger_key_path())
        key.parent.mkdir(parents=True, exist_ok=True)
        if not key.exists():
            key.write_text(secrets.token_hex(32))
            key.chmod(0o600)
        made = running.owner.apply(text)["keys"]
        yield Scene(running, {name: running.as_(key) for keys in made.values() for name, key in keys.items()})
