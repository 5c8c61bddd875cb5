"""The learner: reads what is new in each tenant's ledger, and publishes what the router is to expect.

One process of an installation learns at a time (an advisory lock of its session); others wait for it to go. It keeps
nothing of its own: when it starts it reads each tenant's last entries again, but for what it was told to forget. It
works in the name of one tenant at a time, so that row-level security keeps what it reads and what it writes apart.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import psycopg
from psycopg import Connection

from interlock.control.learning.samples import Samples
from interlock.control.learning.sharing import SharedPool, common
from interlock.errors import InterlockError
from interlock.learning.published import MICRO
from interlock.learning.trainer import Arm, Plan, Said, Trainer
from interlock.ledger.vault import KeyWrapper
from interlock.routing.catalog import Catalog, offers_of
from interlock.settings import Settings
from interlock.storage import (
    feedback,
    learned,
    learner_status,
    ledger_read,
    router_guidance,
    router_quality,
    router_shared,
    sources,
    tenants,
)
from interlock.storage.ledger_keys import LedgerKeys, read_key
from interlock.storage.pool import Store, connect
from interlock.storage.router_guidance import EVERYTHING, Guidance
from interlock.types.clock import Clock
from interlock.types.identity import DataClass, Tenant
from interlock.types.learned import JudgeTrust, arm_of
from interlock.types.source import Ability, Offer

logger = logging.getLogger(__name__)

_LOCK = 0x1EA2
_FEEDBACK_PER_LOOK = 500
TELL_S = 10
"""How often it tells of itself."""
NUSD_PER_USD = 1_000_000_000
UNSAID_MILLI = 500
"""The prior of a model that nobody gave one."""


_Basis = tuple[int, int, dict[str, tuple[int, int]], dict[str, Said], bool, tuple[JudgeTrust, ...]]
"""Calls, outcomes, words of administrators and of other tenants, whether it is shared, and judges."""


class _Pupil:
    """What is learned of one tenant, and how far its ledger was read."""

    def __init__(self, tenant_id: str, trainer: Trainer, samples: Samples, start: int, guidance: Guidance) -> None:
        self.tenant_id = tenant_id
        self.trainer = trainer
        self.samples = samples
        self.position = start
        self.said = start
        self.published_ns = 0
        self.version = 0
        self.told: _Basis = (-1, -1, {}, {}, False, ())
        """What the last state rests on."""
        self.trusted: dict[str, bool] = {}
        """Judges of the state in force, and whether each is believed."""
        self.common: tuple[set[str], set[str]] = (set(), set())
        """Sources and arms that the platform gives it."""
        self.shared: dict[str, Said] = {}
        self.guidance = guidance
        self.behind = 0
        self.begun = 0
        """Size of the ledger when it began: what was erased by then is not read."""
        self.stale = False
        """Somebody was erased since: it has to begin anew."""
        self.anew = False
        """It took the place of one that had to begin anew, and has published nothing yet."""


class Learner:
    """Looks at all tenants again and again. One thread uses it."""

    def __init__(self, store: Store, settings: Settings, clock: Clock) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._pupils: dict[str, _Pupil] = {}
        self._pool = SharedPool(store, settings, clock)
        self._started = self._now()
        self._told_ns = 0
        self.published = 0
        self.outcomes = 0
        self.entries = 0

    def look(self) -> bool:
        """Read what is new of every tenant and publish what is due; whether there is more to read at once.

        Raises StoreError when the database is away.
        """
        with self._store.platform() as conn:
            there = [t for t in tenants.everything(conn) if t.active and t.id != tenants.PLATFORM_TENANT]
            offers = offers_of(sources.everything(conn))
        learning = [t for t in sorted(there, key=lambda t: t.id) if self._learns(t)]
        learning = learning[: self._settings.learning_tenants_max]
        for tenant_id in self._pupils.keys() - {t.id for t in learning}:
            del self._pupils[tenant_id]
        for tenant in there:
            if tenant.learning == "off" or self._settings.learning == "off":
                self._forget(tenant.id)
        self._pool.look({t.id for t in learning if t.learning_shares})
        more = False
        for tenant in learning:
            try:
                more |= self._look_at(tenant.id, offers)
            except (InterlockError, psycopg.Error):
                raise
            except Exception:
                # What one tenant's traffic breaks keeps nobody else's from being learned of.
                logger.exception("nothing is learned of a tenant for now", extra={"tenant_id": tenant.id})
                self._pupils.pop(tenant.id, None)
        self._tell()
        return more

    def _tell(self) -> None:
        """How it stands, for whoever looks after the installation."""
        now_ns = self._clock.mono_ns()
        if self._told_ns and now_ns - self._told_ns < TELL_S * 1_000_000_000:
            return
        self._told_ns = now_ns
        status = learner_status.Status(
            socket.gethostname(),
            os.getpid(),
            self._started,
            self._now(),
            len(self._pupils),
            self.published,
            self.outcomes,
            self.entries,
            sum(pupil.behind for pupil in self._pupils.values()),
        )
        with self._store.platform() as conn:
            learner_status.tell(conn, status)

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._clock.wall_ns() / 1e9, datetime.UTC)

    def _learns(self, tenant: Tenant) -> bool:
        return self._settings.learning != "off" and tenant.learning != "off"

    def _forget(self, tenant_id: str) -> None:
        with self._store.tenant(tenant_id) as conn:
            if learned.clear(conn, tenant_id):
                logger.info("what was learned of a tenant is forgotten", extra={"tenant_id": tenant_id})

    def _look_at(self, tenant_id: str, offers: tuple[Offer, ...]) -> bool:
        pupil = self._guided(tenant_id)
        catalog = Catalog(tenant_id, offers, ())
        pupil.trainer.models(_arms(catalog.by_key.values()))
        pupil.common = common(catalog)
        pupil.shared = self._pool.priors(tenant_id, pupil.common[1])
        pupil.trainer.shared(pupil.shared)
        more = self._read(pupil)
        trainer, now_ns = pupil.trainer, self._clock.mono_ns()
        shares = self._pool.shares(tenant_id)
        told = (
            trainer.trials.choices + trainer.trials.tried,
            trainer.outcomes,
            pupil.guidance.priors,
            pupil.shared,
            shares,
            trainer.judges(),
        )
        due = now_ns - pupil.published_ns >= self._settings.learning_publish_ms * 1_000_000 or not pupil.published_ns
        known = bool(trainer.outcomes or pupil.guidance.priors or pupil.told[2] or pupil.anew)
        known |= bool(pupil.shared or pupil.told[3])
        if not more and not pupil.stale and due and known and told != pupil.told and self._publish(pupil):
            pupil.told, pupil.published_ns, pupil.anew = told, now_ns, False
        return more

    def _guided(self, tenant_id: str) -> _Pupil:
        """Who learns of a tenant, as administrators want it now: who has to forget something begins anew."""
        with self._store.tenant(tenant_id) as conn:
            now = router_guidance.guidance(conn, tenant_id)
        pupil = self._pupils.get(tenant_id)
        if pupil is None or pupil.stale or pupil.guidance.resets != now.resets:
            # After an erasure too: its prompts open no more, and are in nothing that is learned from then on.
            anew = pupil is not None and pupil.stale
            pupil = self._begin(tenant_id, now)
            pupil.anew = anew
        pupil.guidance = now
        pupil.trainer.said({arm: Said(micro / MICRO, outcomes) for arm, (micro, outcomes) in now.priors.items()})
        return pupil

    def _begin(self, tenant_id: str, guidance: Guidance) -> _Pupil:
        s = self._settings
        plan = Plan(
            s.explore_share_milli / 1000,
            s.explore_cold_calls,
            s.explore_money_milli / 1000,
            int(DataClass[s.explore_data_class_max]),
            s.learning_outcomes_max,
            s.learning_words_max,
            s.learning_arms_max,
            s.learning_teams_max,
        )
        master = KeyWrapper(read_key(s.ledger_key_path(), "the ledger's master key"), secrets.token_bytes)
        keys = LedgerKeys(master, secrets.token_bytes, s.ledger_keys_max)
        with self._store.tenant(tenant_id) as conn:
            size = ledger_read.sizes(conn, [tenant_id]).get(tenant_id, 0)
            before = learned.current(conn, tenant_id)
        rng = np.random.default_rng(int.from_bytes(tenant_id.encode()[-8:], "big"))
        whole = guidance.resets.get(EVERYTHING)
        start = max(-1, size - s.learning_calls_at_start - 1, whole.position if whole is not None else -1)
        pupil = _Pupil(tenant_id, Trainer(plan, rng), Samples(tenant_id, keys, s), start, guidance)
        pupil.begun = size
        versions = [reset.version for reset in guidance.resets.values()]
        pupil.version = max([before.version if before is not None else 0, *versions])
        pupil.trusted = {each.judge: each.trusted for each in before.judges} if before is not None else {}
        self._pupils[tenant_id] = pupil
        return pupil

    def _read(self, pupil: _Pupil) -> bool:
        """Entries first, then what was said of them; whether there is more."""
        limit = self._settings.learning_calls_per_look
        trainer, samples = pupil.trainer, pupil.samples
        with self._store.tenant(pupil.tenant_id) as conn:
            size, found = ledger_read.following(conn, pupil.tenant_id, pupil.position, limit)
            forgotten = pupil.guidance.forgotten
            for each in found:
                leaf = msgspec.json.decode(each.leaf)
                pupil.stale |= leaf["kind"] == "erasure" and each.position >= pupil.begun
                told, outcomes = samples.of_call(conn, leaf)
                if told is not None and not forgotten(told.arm, each.position):
                    trainer.call(told)
                verdict = samples.verdict(conn, leaf) if leaf["kind"] == "call" else None
                if verdict is not None and not any(forgotten(arm, each.position) for arm in verdict.arms):
                    self.outcomes += trainer.verdict(verdict)
                for outcome in outcomes:
                    if not forgotten(outcome.arm, each.position):
                        trainer.outcome(outcome)
                        self.outcomes += 1
                pupil.position = each.position
            said = feedback.read_since(conn, pupil.tenant_id, pupil.said, _FEEDBACK_PER_LOOK)
            for row in said:
                if row.reward_micro is not None:
                    of = samples.of_feedback(conn, row.request, row.model, row.version, row.reward_micro)
                    if of is not None and not forgotten(of.arm, row.position):
                        trainer.outcome(of)
                        self.outcomes += 1
                pupil.said = row.position
        self.entries += len(found)
        pupil.behind = max(0, size - 1 - pupil.position)
        return len(found) == limit or len(said) == _FEEDBACK_PER_LOOK

    def _publish(self, pupil: _Pupil) -> bool:
        """Put what is known in force; False when something of it is to be forgotten since it was read, or when another
        learner has put a later state in force.

        INVARIANT: who has something forgotten waits for this transaction, or this sees what is to be forgotten.
        """
        weights, words = pupil.trainer.state(pupil.version + 1, self._clock.wall_ns() // 1_000_000_000)
        qualities = pupil.trainer.qualities(weights.version)
        with self._store.tenant(pupil.tenant_id) as conn:
            router_guidance.in_turn(conn, pupil.tenant_id)
            if router_guidance.guidance(conn, pupil.tenant_id).resets != pupil.guidance.resets:
                return False
            if not learned.publish(conn, pupil.tenant_id, weights, words):
                pupil.stale = True
                return False
            router_quality.publish(conn, pupil.tenant_id, qualities)
            shares = self._pool.shares(pupil.tenant_id)
            router_shared.publish(conn, pupil.tenant_id, pupil.trainer.given(*pupil.common) if shares else {})
        pupil.version += 1
        self.published += 1
        logger.info(
            "router state %d: %d models, %d outcomes",
            weights.version,
            len(weights.arms),
            pupil.trainer.outcomes,
            extra={"tenant_id": pupil.tenant_id},
        )
        _tell_of_judges(pupil, weights.judges)
        return True

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. Waits while another process learns, and while the database is away."""
        failing = False
        while not stop.is_set():
            try:
                with self._alone() as held:
                    failing = False
                    while held is not None and not stop.is_set():
                        held.execute("SELECT 1")
                        if not self.look():
                            stop.wait(self._settings.learning_interval_ms / 1000)
            except (InterlockError, psycopg.Error) as e:
                if not failing:
                    logger.warning("nothing is learned for now: %s", e)
                failing = True
            stop.wait(1.0)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[Connection[Any] | None]:
        """The connection whose session holds the lock; None while another process learns."""
        self._pupils.clear()
        with contextlib.closing(connect(self._store.url, self._settings, name="learner")) as conn:
            row = conn.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).fetchone()
            yield conn if row is not None and row[0] else None


def _tell_of_judges(pupil: _Pupil, judges: Iterable[JudgeTrust]) -> None:
    """Log each judge that the state now in force believes, or does not, otherwise than the one before."""
    before, pupil.trusted = pupil.trusted, {each.judge: each.trusted for each in judges}
    for each in judges:
        if each.trusted == before.get(each.judge, True):
            continue
        more = {"tenant_id": pupil.tenant_id, "judge": each.judge, "why": each.why, "pairs": sum(each.origins.values())}
        if each.trusted:
            logger.info("a judge agrees with what others say again: its verdicts count", extra=more)
        else:
            logger.warning("a judge agrees with nobody: what it said is learned without", extra=more)


def _arms(offers: Iterable[Offer]) -> Mapping[str, Arm]:
    """What there is to choose from. Of a model at several sources the cheapest price tells."""
    arms: dict[str, Arm] = {}
    for offer in offers:
        model = offer.model
        if Ability.chat.value not in model.abilities and Ability.completions.value not in model.abilities:
            continue
        price = (model.price.input_nusd_per_mtok + model.price.output_nusd_per_mtok) / 2 / NUSD_PER_USD
        prior = model.quality_milli / 1000 if model.quality_milli != UNSAID_MILLI else None
        name, known = arm_of(model), arms.get(arm_of(model))
        if known is None or price < known.price:
            arms[name] = Arm(price, prior, model.parameters_m, model.family)
    return arms
