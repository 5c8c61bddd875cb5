"""What all tests share: one embedded PostgreSQL for each process of a run, started when its first test asks for it."""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import hypothesis
import psycopg
import pytest

from interlock.storage.embedded import LOGIN, EmbeddedPostgres
from interlock.storage.migrate import migrate

from .postgres import owned_home, patient

pytest_plugins = ("tests.figures",)

# numpy is loaded later. Its threads wait by spinning, which takes tests on a busy machine three times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Tests start hundreds of processes. Where images of Python forbid bytecode, each would compile all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# How long one example takes says nothing where other processes run as well; a test as a whole has its timeout.
hypothesis.settings.register_profile("interlock", deadline=None)
hypothesis.settings.load_profile("interlock")

OWN_STACK = ("test_lifecycle.py", "test_retirement.py", "test_tls_before_an_engine.py", "test_wheel.py")
"""Files of `tests/e2e` that do not use the demo that the others there share."""

_TEMPLATE = "interlock_template"
_numbers = itertools.count(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whoever runs tests in several processes (`make test`): a file stays in one, for what its tests share, and so do
    all that share the demo. The order is that of one process: by far the longest share, the demo's, begins early."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "demo" if "tests/e2e/" in file and file.rpartition("/")[2] not in OWN_STACK else file

    config.option.loadscopereorder = False
    return Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What was collected stays to the end: the garbage collector need not look at all of it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """The run's PostgreSQL server. It does not sync to disk: nothing in it outlives the run."""
    options = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}
    with owned_home() as home:
        server = EmbeddedPostgres(home, patient(home), options=options)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def _postgres_template(postgres_server: EmbeddedPostgres) -> str:
    """A database with the schema in it, copied for whom wants one: faster than migrating every time."""
    with psycopg.connect(postgres_server.superuser_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {_TEMPLATE} OWNER {LOGIN}")
    migrate(_database_url(postgres_server.url, _TEMPLATE))
    return _TEMPLATE


@pytest.fixture(scope="module")
def postgres_url(postgres_server: EmbeddedPostgres, _postgres_template: str) -> Iterator[str]:
    """The URL of a fresh, migrated database of this test module. Its login is no superuser."""
    with _database(postgres_server, _postgres_template) as url:
        yield url


@pytest.fixture
def postgres_migrated_url(postgres_server: EmbeddedPostgres, _postgres_template: str) -> Iterator[str]:
    """The URL of a fresh, migrated database for one test."""
    with _database(postgres_server, _postgres_template) as url:
        yield url


@pytest.fixture
def postgres_empty_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """The URL of a fresh database without a schema, for one test."""
    with _database(postgres_server, "template0") as url:
        yield url


class _database:
    """A database copied from a template, dropped at the end."""

    def __init__(self, server: EmbeddedPostgres, template: str) -> None:
        self.server = server
        self.template = template
        self.name = f"test_{next(_numbers)}"

    def __enter__(self) -> str:
        with psycopg.connect(self.server.superuser_url, autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {self.name} TEMPLATE {self.template} OWNER {LOGIN}")
        return _database_url(self.server.url, self.name)

    def __exit__(self, *_: object) -> None:
        with psycopg.connect(self.server.superuser_url, autocommit=True) as conn:
            conn.execute(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")


def _database_url(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
