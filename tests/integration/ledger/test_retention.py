"""What was kept long enough goes, nothing else does, every proof holds, and a legal hold stops all of it."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from interlock.control.keyring import Keyring
from interlock.control.retention import RetentionSweeper
from interlock.errors import BadRequest
from interlock.settings import Settings
from interlock.storage import holds, retention, shipping
from interlock.storage.pool import Store
from interlock.storage.retention import NS_PER_DAY, Place
from interlock.testing.clock import FakeClock
from tests.integration.control_client import Admin
from tests.integration.gateway.client import CHAT, ask
from tests.integration.ledger.scene import MESSAGE, SECRET, Scene

TABLES = ("ledger_contents", "ledger_lists")
BY = "prn_owner"


class Later:
    """A control process whose clock, and whose database's clock, are some days ahead."""

    def __init__(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scene = scene
        self._patch = monkeypatch

    def sweep(self, days: int, batch: int = 1000, database_days: int | None = None) -> int:
        """A pass of retention; how many contents it removed."""
        now_ns = time.time_ns()
        ahead = days if database_days is None else database_days
        self._patch.setattr(retention, "database_day", lambda _: now_ns // NS_PER_DAY + ahead)
        clock = FakeClock(wall_ns=now_ns + days * NS_PER_DAY)
        control = self.scene.running.control
        settings = Settings(ledger_retention_batch=batch)
        sweeper = RetentionSweeper(control.store, settings, clock, Keyring(control.settings))
        stop = threading.Event()
        timer = threading.Timer(15, stop.set)
        timer.start()
        try:
            sweeper.pass_once(stop)
        finally:
            timer.cancel()
        assert not stop.is_set(), "it comes to an end"
        assert not sweeper.failing
        return sweeper.removed


@pytest.fixture
def later(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Later:
    monkeypatch.setattr("interlock.control.retention.PAUSE_S", 0.0)
    return Later(scene, monkeypatch)


def keep(scene: Scene, days: int, tenant: str = "acme", **by_class: int) -> None:
    scene.owner.do(
        "PUT", f"/tenants/{tenant}", {"name": tenant, "retention": {"contents_days": days, "by_data_class": by_class}}
    )


def count(store: Store, subject: str = "") -> tuple[int, ...]:
    """Rows of contents and lists."""
    with store.platform() as conn:
        rows = [
            conn.execute(
                f"SELECT count(*) FROM interlock.{table} WHERE tenant_id = 'ten_acme' AND subject LIKE %s",
                (f"%{subject}",),
            ).fetchone()
            for table in TABLES
        ]
    return tuple(row[0] for row in rows if row is not None)


def notes(scene: Scene, request: str) -> Any:
    return scene.owner.get(f"/tenants/acme/ledger/calls/{request}")["notes"]


def say(scene: Scene, messages: list[str], who: str = "alice", data_class: str = "internal") -> str:
    """A conversation so far; the request id."""
    body = {**CHAT, "messages": [{"role": "user", "content": text} for text in messages]}
    answer = ask(scene.gateway, body, key=scene.gateway.key(who), x_interlock_data_class=data_class)
    return answer.headers["x-interlock-request-id"]


def age(scene: Scene, postgres_url: str, days: int) -> None:
    """What is there was used so many days earlier."""
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
        for table in TABLES:
            sets = ", ".join(f"{column} = {column} - {days}" for column in retention.COLUMNS)
            conn.execute(f"UPDATE interlock.{table} SET {sets}")


def test_what_was_kept_long_enough_goes_and_every_proof_holds(
    scene: Scene,
    later: Later,
    tmp_path: Path,
) -> None:
    call = scene.say(SECRET)
    scene.arrive()
    store = scene.running.control.store
    there = count(store)
    assert min(there) > 0
    assert later.sweep(10_000) == 0, "kept for ever where nothing is said"
    keep(scene, 30)
    assert later.sweep(30) == 0 and count(store) == there and notes(scene, call) == [], "thirty whole days"
    assert later.sweep(31) == there[0] and count(store) == (0, 0)
    day = f"{datetime.now(UTC) + timedelta(days=31):%Y-%m-%d}"
    assert notes(scene, call) == [f"what was kept of it was removed by retention on {day}"]
    assert set(scene.contents(call).values()) == {None}
    status, error = scene.owner.call("GET", f"/tenants/acme/ledger/calls/{call}/replay")
    assert (status, error["error"]["code"]) == (404, "features_removed")
    assert day in error["error"]["message"]
    again = scene.say(SECRET)
    scene.arrive()
    assert scene.contents(again)["messages"] == [MESSAGE], "what is said again is kept again"
    until_ns = scene.all_until_now()
    report = scene.verify(tmp_path / "export", until_ns)
    assert (report.verdict, report.problems) == ("complete", []), report
    assert scene.erase()["keys"] == 1, "and can be erased"
    assert notes(scene, again) == ["what was kept of it was erased"]


def test_each_data_class_has_its_own_time(scene: Scene, later: Later) -> None:
    keep(scene, 0, restricted=5, confidential=50)
    calls = {name: say(scene, [name], data_class=name) for name in ("internal", "confidential", "restricted")}
    scene.arrive()
    for days, left in ((5, 3), (6, 2), (50, 2), (51, 1), (9999, 1)):
        later.sweep(days)
        assert sum(notes(scene, call) == [] for call in calls.values()) == left, days
    assert notes(scene, calls["internal"]) == []


def test_what_a_younger_call_uses_too_is_kept(scene: Scene, later: Later, postgres_migrated_url: str) -> None:
    keep(scene, 30)
    first = say(scene, ["one"])
    scene.arrive()
    age(scene, postgres_migrated_url, 40)
    second = say(scene, ["one", "two"])
    scene.arrive()
    later.sweep(0)
    assert len(notes(scene, first)) == 1
    assert [each["content"] for each in scene.contents(second)["messages"]] == ["one", "two"]
    assert scene.contents(first)["messages"][0]["content"] == "one", "it is the younger call's"
    assert scene.contents(first)["record"] is None


def test_a_use_of_another_class_keeps_what_is_shared(scene: Scene, later: Later) -> None:
    keep(scene, 20, restricted=5)
    lax, strict = (say(scene, ["the same"], data_class=name) for name in ("internal", "restricted"))
    scene.arrive()
    later.sweep(6)
    assert scene.contents(lax)["messages"][0]["content"] == "the same"
    assert scene.contents(strict)["record"] is None and len(notes(scene, strict)) == 1
    keep(scene, 20, restricted=0)
    later.sweep(21)
    assert count(scene.running.control.store) == (0, 0), "a use that was over does not come back"


def test_one_wrong_clock_removes_nothing(scene: Scene, later: Later) -> None:
    keep(scene, 30)
    scene.say(SECRET)
    scene.arrive()
    assert later.sweep(1000, database_days=0) == later.sweep(0, database_days=1000) == 0


# -- beside shippers


def test_a_shipper_that_uses_what_is_being_removed_brings_it_again(
    scene: Scene,
    later: Later,
    postgres_migrated_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waits for the removal, then finds nothing there, and everything that its entry refers to is there after it."""
    keep(scene, 30)
    say(scene, ["one"])
    scene.arrive()
    age(scene, postgres_migrated_url, 40)
    again = say(scene, ["one", "two"])
    real, threads, done = holds.held, [], threading.Event()

    def ship() -> None:
        scene.shipper.pass_once()
        done.set()

    def meanwhile(conn: Any, tenant_id: str) -> list[str]:
        if not threads:
            threads.append(threading.Thread(target=ship))
            threads[0].start()
            assert not done.wait(0.5), "the shipper waits"
        return real(conn, tenant_id)

    monkeypatch.setattr(holds, "held", meanwhile)
    assert later.sweep(0) > 0
    threads[0].join(60)
    assert done.is_set()
    scene.sequence()
    assert [each["content"] for each in scene.contents(again)["messages"]] == ["one", "two"]
    later.sweep(0)
    assert [each["content"] for each in scene.contents(again)["messages"]] == ["one", "two"]


def test_what_a_shipper_is_about_to_use_is_not_removed(
    scene: Scene,
    later: Later,
    postgres_migrated_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Removal waits for a shipper that has begun, and sees what it says."""
    keep(scene, 30)
    say(scene, ["one"])
    scene.arrive()
    age(scene, postgres_migrated_url, 40)
    again = say(scene, ["one", "two"])
    real, threads, done = shipping.ship, [], threading.Event()

    def sweep() -> None:
        later.sweep(0)
        done.set()

    def slowly(*arguments: Any) -> None:
        real(*arguments)
        if not threads:
            threads.append(threading.Thread(target=sweep))
            threads[0].start()
            assert not done.wait(0.5), "removal waits"

    monkeypatch.setattr(shipping, "ship", slowly)
    scene.arrive()
    threads[0].join(60)
    assert done.is_set()
    assert [each["content"] for each in scene.contents(again)["messages"]] == ["one", "two"]


def test_what_is_used_again_on_the_same_day_is_not_written_again(scene: Scene, postgres_migrated_url: str) -> None:
    def versions() -> list[Any]:
        with psycopg.connect(postgres_migrated_url, autocommit=True) as conn:
            conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
            query = "SELECT id, xmin::text, xmax::text FROM interlock.ledger_{} ORDER BY id"
            return [conn.execute(query.format(name)).fetchall() for name in ("contents", "lists")]

    say(scene, ["one"])
    scene.arrive()
    before = versions()
    say(scene, ["one", "two"])
    scene.arrive()
    after = versions()
    assert set(before[1]) <= set(after[1]) and len(set(before[0]) - set(after[0])) == 0


# -- legal hold


def hold(scene: Scene, subject: str) -> str:
    return str(scene.owner.do("POST", "/tenants/acme/ledger/holds", {"subject": subject})["id"])


def release(scene: Scene, hold_id: str) -> Any:
    return scene.owner.do("POST", f"/tenants/acme/ledger/holds/{hold_id}/release", {})


@pytest.mark.parametrize("subject", ["prn_acme_alice", ""])
def test_while_a_hold_stands_nothing_of_it_is_removed_or_erased(
    scene: Scene, later: Later, postgres_migrated_url: str, subject: str
) -> None:
    keep(scene, 30)
    alices, bobs = scene.say(SECRET), scene.say("something else", "bob")
    scene.arrive()
    store = scene.running.control.store
    there, first, second = count(store), hold(scene, subject), hold(scene, subject)
    later.sweep(31)
    assert count(store) == (there if subject == "" else count(store, "prn_acme_alice"))
    assert notes(scene, alices) == [] and (notes(scene, bobs) == []) == (subject == "")
    path = "/tenants/acme/ledger/erase"
    for _ in range(2):
        status, error = scene.owner.call("POST", path, {"subject": "prn_acme_alice"})
        assert (status, error["error"]["code"]) == (409, "legal_hold")
        assert release(scene, first)["released_reason"] == "test"
        first = second
    assert scene.contents(alices)["messages"] == [MESSAGE]
    with psycopg.connect(
        postgres_migrated_url, autocommit=True
    ) as conn:  # as if they had stood until the sweep had been
        conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
        conn.execute("UPDATE interlock.ledger_holds SET released_at = now() + '35 days'")
    later.sweep(40)
    assert count(store) == (0, 0)
    day = f"{datetime.now(UTC) + timedelta(days=40):%Y-%m-%d}"
    assert notes(scene, alices) == [f"what was kept of it was removed by retention on {day}"]
    scene.say("later")
    scene.arrive()
    scene.erase()


def test_an_erased_persons_later_words_are_held_under_the_same_name(scene: Scene, later: Later) -> None:
    """Whoever was erased and speaks again has another key, and is the same person to a hold."""
    keep(scene, 30)
    scene.say("before")
    scene.arrive()
    scene.erase()
    call = scene.say(SECRET)
    scene.arrive()
    hold(scene, "prn_acme_alice")
    later.sweep(31)
    assert scene.contents(call)["messages"] == [MESSAGE]


def test_a_hold_that_is_added_during_a_sweep_holds_what_is_left(
    scene: Scene,
    later: Later,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep(scene, 30)
    for text in ("one", "two", "three"):
        scene.say(text)
    scene.arrive()
    store = scene.running.control.store
    real, added, left = holds.held, [], []

    def adding(conn: Any, tenant_id: str) -> list[str]:
        if not added:  # in the first transaction of the sweep, which goes on when it is through
            made = holds.Hold("hld_00000000000000000001", "prn_acme_alice", "case 4", BY, datetime.now(UTC))

            def add() -> None:
                with store.tenant(tenant_id) as other:
                    holds.add(other, tenant_id, made)
                left.append(count(store))

            added.append(threading.Thread(target=add))
            added[0].start()
            time.sleep(0.3)
            assert left == [], "who adds a hold is answered when it holds"
        else:
            added[0].join(60)
        return real(conn, tenant_id)

    monkeypatch.setattr(holds, "held", adding)
    assert later.sweep(31, batch=2) == 2
    assert left == [count(store)], "nothing was removed after the hold was there"


def test_what_is_held_does_not_keep_the_rest_from_going(scene: Scene, later: Later) -> None:
    keep(scene, 30)
    for n in range(5):
        scene.say(f"one {n}")
        scene.say(f"two {n}", "bob")
    scene.arrive()
    hold(scene, "prn_acme_alice")
    later.sweep(31, batch=2)
    store = scene.running.control.store
    assert count(store) == count(store, "prn_acme_alice") and min(count(store)) > 0


def test_a_hold_that_was_added_before_an_erasure_looks_stops_it(scene: Scene) -> None:
    scene.say(SECRET)
    scene.arrive()
    store = scene.running.control.store
    made = holds.Hold("hld_00000000000000000001", "prn_acme_alice", "case 4", BY, datetime.now(UTC))
    outcome: list[Any] = []

    def erase() -> None:
        outcome.append(scene.owner.call("POST", "/tenants/acme/ledger/erase", {"subject": "prn_acme_alice"}))

    with store.tenant("ten_acme") as conn:
        holds.add(conn, "ten_acme", made)
        thread = threading.Thread(target=erase)
        thread.start()
        time.sleep(0.3)
        assert outcome == []
    thread.join(60)
    assert (outcome[0][0], outcome[0][1]["error"]["code"]) == (409, "legal_hold")


def test_who_may_hold_and_release_and_what_is_on_record(scene: Scene) -> None:
    path = "/tenants/acme/ledger/holds"
    clients = {}
    for role in ("owner", "admin", "auditor", "developer"):
        scene.owner.do("POST", "/tenants/acme/principals", {"name": role})
        scene.owner.do("POST", "/tenants/acme/roles", {"principal": role, "role": role})
        body = {"name": f"{role}-key", "principal": role, "scopes": ["admin"]}
        clients[role] = Admin(scene.owner.http, scene.owner.do("POST", "/tenants/acme/keys", body)["key"])
    for role, listing, adding, releasing in (
        ("developer", 403, 403, 403),
        ("auditor", 200, 403, 403),
        ("admin", 200, 200, 403),
        ("owner", 200, 200, 200),
    ):
        it = clients[role]
        assert it.call("GET", path)[0] == listing, role
        assert it.call("POST", path, {"subject": "developer"}, reason=f"case of {role}")[0] == adding, role
        made = hold(scene, "")
        assert it.call("POST", f"{path}/{made}/release", {}, reason="over")[0] == releasing, role
    for body, reason, status in (
        ({"subject": "x"}, "", 400),
        ({"subject": "a\x00"}, "r", 400),
        ({"who": ""}, "r", 400),
    ):
        assert scene.owner.call("POST", path, body, reason=reason)[0] == status, body
    assert scene.owner.call("POST", f"{path}/hld_nothing/release", {})[0] == 404
    assert scene.owner.call("POST", f"{path}/{made}/release", {}, reason="")[0] == 400
    status, error = scene.owner.call("POST", f"{path}/{made}/release", {})
    assert (status, error["error"]["code"]) == (409, "released")
    found = clients["auditor"].get(path)["items"]
    developer = scene.owner.get("/tenants/acme/principals/developer")["id"]
    mine = [each for each in found if each["reason"] == "case of owner"]
    assert [each["subject"] for each in mine] == [developer] and mine[0]["released_at"] is None
    assert {each["subject"] for each in found} == {developer, ""}
    assert [each["id"] for each in found if each["released_at"]] == [made]
    changes = scene.owner.get("/tenants/acme/changes?limit=100")["items"]
    said = [(c["action"], c["object_id"], c["reason"]) for c in changes if c["object_kind"] == "hold"]
    assert ("ledger.hold_release", made, "over") in said
    assert ("ledger.hold_add", mine[0]["id"], "case of owner") in said and len(said) == len(found) + 1
    with scene.running.control.store.tenant("ten_globex") as conn:
        assert holds.every(conn, "ten_acme") == [], "another tenant sees none of it"
        assert conn.execute("SELECT * FROM interlock.ledger_sweeps").fetchall() == []


# -- as a whole: exactly what no use counts for any more

USES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(90, 110)), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(USES, st.lists(st.integers(0, 12), min_size=4, max_size=4), st.sets(st.sampled_from("abc")), st.integers(1, 3))
@example([("a", 0, 100), ("a", 3, 99)], [0, 0, 0, 5], set(), 1)
@example([("a", 0, 99), ("a", 1, 105)], [10, 3, 0, 0], set(), 1)
@example([("a", 0, 99), ("a", 1, 104), ("b", 0, 100), ("c", 2, 90)], [10, 5, 0, 0], {"b"}, 1)
@example([("a", 0, 90), ("a", 0, 100), ("b", 0, 90)], [10, 0, 0, 0], set(), 3)
@example([("a", 0, 90), ("b", 0, 91), ("c", 0, 92)], [3, 3, 3, 3], {"a"}, 1)
def test_exactly_what_no_use_counts_for_is_removed(
    store: Store,
    uses: list[tuple[str, int, int]],
    days: list[int],
    held: set[str],
    batch: int,
) -> None:
    today = 110
    names = ("public", "internal", "confidential", "restricted")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    with store.platform() as conn:
        conn.execute("DELETE FROM interlock.tenants WHERE id = 'ten_t'")
        conn.execute(
            "INSERT INTO interlock.tenants (id, name, time_zone, active, created_at, updated_at, retention)"
            " VALUES ('ten_t', 't', 'UTC', true, now(), now(), %s)",
            (psycopg.types.json.Jsonb({"by_data_class": dict(zip(names, days, strict=True))}),),
        )
    with store.tenant("ten_t") as conn:
        for table in TABLES:
            conn.execute(f"DELETE FROM interlock.{table}")
        conn.execute("UPDATE interlock.ledger_holds SET released_by = '', released_at = now(), released_reason = ''")
        for number, subject in enumerate(sorted(held)):
            identifier = f"hld_{time.time_ns():019d}{number}"
            holds.add(conn, "ten_t", holds.Hold(identifier, subject, "case", BY, at))
    with store.shipping() as conn:
        for subject, data_class, day in uses:
            contents, lists = shipping.Uses(), shipping.Uses()
            contents.add("ten_t", subject, [(bytes(32), b"x")], data_class, day)
            lists.add("ten_t", subject, [(bytes(32), b"", bytes(32))], data_class, day)
            shipping._contents(conn, contents)
            shipping._lists(conn, lists)
    place: Place | None = Place()
    while place is not None:
        with store.tenant("ten_t") as conn:
            place = retention.sweep(conn, "ten_t", place, today=today, at=at, batch=batch).next
    kept = {s for s, c, day in uses if s in held or days[c] == 0 or today - day <= days[c]}
    with store.tenant("ten_t") as conn:
        for table in TABLES:
            found = {name for (name,) in conn.execute(f"SELECT subject FROM interlock.{table}")}
            assert found == kept, table


def test_two_processes_do_not_sweep_a_tenant_at_once(scene: Scene, later: Later) -> None:
    keep(scene, 30)
    scene.say(SECRET)
    scene.arrive()
    with scene.running.control.store.tenant("ten_acme") as conn:
        conn.execute("SELECT pg_advisory_xact_lock(%s, hashtext('ten_acme'))", (retention.SWEEP_LOCK_SPACE,))
        assert later.sweep(31) == 0
    assert later.sweep(31) > 0


def test_a_content_without_a_day_is_refused(store: Store) -> None:
    """A node of an older version names none: it is not let in to bring what would be kept for ever."""
    with pytest.raises(BadRequest, match="ledger_contents_has_a_day"), store.shipping() as conn:
        conn.execute(
            "INSERT INTO interlock.ledger_contents (tenant_id, subject, id, data) VALUES ('ten_t', 's', %s, 'x')",
            (bytes(32),),
        )
