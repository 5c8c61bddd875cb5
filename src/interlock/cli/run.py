"""The processes themselves: `up` runs all of them on one machine, `gateway` and `control` one each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from interlock.cli.common import Home, settings_of

if TYPE_CHECKING:
    from interlock.settings import Settings

Port = Annotated[int | None, typer.Option("--port", help="Port of the gateway; 0: any free one.")]
ControlPort = Annotated[int | None, typer.Option("--control-port", help="Port of the admin API; 0: any free one.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("up")(up)
    app.command("gateway")(gateway)
    app.command("control")(control)
    app.command("worker")(worker)


def up(
    home: Home = "",
    port: Port = None,
    control_port: ControlPort = None,
    demo: Annotated[bool, typer.Option("--demo", help="Also run two demo engines and two demo tenants.")] = False,
    ready_file: Annotated[str, typer.Option("--ready-file", help="Write a JSON object here once all is ready.")] = "",
) -> None:
    """Run everything on this machine: PostgreSQL (unless one is configured), the admin API, a gateway, the learner."""
    from pathlib import Path

    from interlock.cli.supervisor import Supervisor
    from interlock.settings import load

    settings = load(home=home or None, gateway_port=port, control_port=control_port)
    code = Supervisor(settings, Path(ready_file) if ready_file else None, demo=demo).run()
    if code:
        raise typer.Exit(code)


def gateway(home: Home = "", port: Port = None) -> None:
    """Run a gateway node: its workers, and the process that keeps them."""
    from interlock.gateway.node import main as node

    settings = settings_of(home)
    _environment(home, port, "INTERLOCK_GATEWAY_PORT")
    with _database(settings):
        code = node([])
    if code:
        raise typer.Exit(code)


def control(home: Home = "", control_port: ControlPort = None) -> None:
    """Run the admin API, the snapshot compiler and the discovery of sources."""
    from interlock.control.main import main as control_main

    settings = settings_of(home)
    _environment(home, control_port, "INTERLOCK_CONTROL_PORT")
    with _database(settings):
        code = control_main([])
    if code:
        raise typer.Exit(code)


def worker(home: Home = "") -> None:
    """Run what learns from outcomes where calls are answered best. One of an installation works, others stand by."""
    from interlock.control.learner import main as learner

    settings = settings_of(home)
    _environment(home, None, "")
    with _database(settings):
        code = learner([])
    if code:
        raise typer.Exit(code)


def _environment(home: str, port: int | None, name: str) -> None:
    """What was given as an option, as the process's own settings will read it."""
    if home:
        os.environ["INTERLOCK_HOME"] = home
    if port is not None:
        os.environ[name] = str(port)


@contextlib.contextmanager
def _database(settings: Settings) -> Iterator[None]:
    """The configured database, else this home's embedded one, which the last process that uses it stops."""
    if settings.database_url:
        yield
        return
    from interlock.cli.home import held_together
    from interlock.storage.embedded import EmbeddedPostgres

    server = EmbeddedPostgres(settings.home_path(), settings)
    with held_together(settings) as is_last:
        os.environ["INTERLOCK_DATABASE_URL"] = server.start()
        try:
            yield
        finally:
            if is_last():
                server.stop()
