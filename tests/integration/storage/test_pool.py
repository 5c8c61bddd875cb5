"""The pool: an outage is told and survived, connections are never lost, nothing waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from interlock.errors import Conflict, StoreError
from interlock.settings import Settings
from interlock.storage import snapshots, teams, tenants
from interlock.storage.embedded import EmbeddedPostgres
from interlock.storage.migrate import migrate
from interlock.storage.notify import Listener
from interlock.storage.pool import Store, away
from tests.postgres import owned_home, patient

from . import samples
from .samples import BY

QUICK = Settings(database_pool_max=2, database_connect_timeout_ms=2000, database_statement_timeout_ms=1000)


@pytest.fixture
def small(postgres_url: str) -> Iterator[Store]:
    """A store of two connections and short patience."""
    with Store(postgres_url, QUICK) as store:
        yield store


def test_it_has_a_bound_and_says_when_it_is_reached(small: Store) -> None:
    with small.platform(), small.platform():
        started = time.monotonic()
        with pytest.raises(StoreError) as caught, small.platform():
            pass
        assert caught.value.code == "store_busy" and caught.value.retryable and away(caught.value)
        assert time.monotonic() - started > 1.9
    with small.platform() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_failures_lose_no_connection(small: Store) -> None:
    for _ in range(20):
        with pytest.raises(ZeroDivisionError), small.platform():
            raise ZeroDivisionError
        with pytest.raises(StoreError) as caught, small.platform() as conn:
            conn.execute("SELECT * FROM interlock.nothing")
        assert caught.value.code == "store_schema"
    with small.platform(), small.platform():
        assert small.stats()["pool_size"] == 2


def test_a_long_statement_is_ended(small: Store) -> None:
    with pytest.raises(StoreError) as caught, small.platform() as conn:
        conn.execute("SELECT pg_sleep(60)")
    assert caught.value.code == "store_timeout"
    assert "database_statement_timeout_ms" in caught.value.message


def test_a_row_that_another_holds_is_a_conflict(small: Store) -> None:
    with small.platform() as conn:
        tenant = tenants.insert(conn, samples.tenant("held"), BY).value
        team = teams.insert(conn, samples.team(tenant.id), BY).value
    with small.tenant(tenant.id) as first:
        teams.TABLE.lock(first, team.id)
        with pytest.raises((Conflict, StoreError)), small.tenant(tenant.id) as second:
            teams.TABLE.lock(second, team.id)


def test_two_changes_of_one_revision_cannot_both_win(postgres_url: str) -> None:
    with Store(postgres_url, Settings()) as store:
        with store.platform() as conn:
            tenant = tenants.insert(conn, samples.tenant("raced"), BY).value
            team = teams.insert(conn, samples.team(tenant.id), BY).value
        results: list[str] = []

        def change(cost_center: str) -> None:
            value = type(team)(team.id, tenant.id, team.name, cost_center)
            try:
                with store.tenant(tenant.id) as conn:
                    teams.update(conn, value, BY, revision=1)
                results.append("done")
            except Conflict as e:
                results.append(e.code)

        threads = [threading.Thread(target=change, args=(f"c{i}",)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == ["done"] + ["revision_conflict"] * 5


def test_after_closing_it_says_so(postgres_url: str) -> None:
    store = Store(postgres_url, QUICK)
    store.close()
    with pytest.raises(StoreError), store.platform():
        pass


def test_an_outage_is_told_and_survived() -> None:
    with owned_home() as home:
        server = EmbeddedPostgres(home, patient(home), options={"fsync": "off"})
        with Store(server.url, QUICK) as store, Listener(server.url, QUICK, snapshots.DIRTY_CHANNEL) as listener:
            with pytest.raises(StoreError) as caught:
                store.check()  # opened before the database is there
            assert away(caught.value)
            with server:
                migrate(server.url)
                _until_back(store)
                listener.wait(0)
            for _ in range(3):
                with pytest.raises(StoreError) as caught:
                    store.check()
                assert caught.value.code == "store_away"
            with pytest.raises(StoreError):
                listener.wait(0.1)
            with server:
                _until_back(store)
                listener.wait(0)
                with store.platform() as conn:
                    snapshots.mark_dirty(conn, ["teams"])
                assert listener.wait(30) == [(snapshots.DIRTY_CHANNEL, "")]


def _until_back(store: Store) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            store.check()
            return
        except StoreError:
            if time.monotonic() > deadline:
                raise
