"""The command tree, and how every command ends: with a result, or with one line that says why not and a code.

Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 3 a policy test or a check did not hold.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
import typer.main

from interlock import __version__
from interlock.cli import (
    alerts,
    aliases,
    budgets,
    config,
    console,
    examine,
    holds,
    imports,
    keys,
    ledger,
    ledger_archive,
    ledger_evidence,
    ledger_follow,
    live,
    policy,
    records,
    route_eval,
    route_simulate,
    route_what_if,
    router,
    run,
    sources,
    usage,
)
from interlock.cli.common import Commands
from interlock.cli.output import put, put_json
from interlock.errors import InterlockError

app = Commands(
    name="interlock",
    help="The governed layer above LLM inference servers.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
run.add_to(app)
config.add_to(app)
app.add_typer(keys.app, name="key")
app.add_typer(sources.app, name="source")
app.add_typer(aliases.app, name="alias")
app.add_typer(budgets.app, name="budget")
app.add_typer(alerts.app, name="alert")
app.add_typer(console.app, name="console")
app.add_typer(policy.app, name="policy")
app.add_typer(imports.app, name="import")
records.route_app.command("eval")(route_eval.evaluate)
records.route_app.command("simulate")(route_simulate.simulate)
records.route_app.command("what-if")(route_what_if.what_if)
router.add_to(records.route_app)
app.add_typer(records.route_app, name="route")
ledger.add_to(records.ledger_app)
records.ledger_app.add_typer(holds.app, name="hold")
ledger_follow.add_to(records.ledger_app)
ledger_archive.add_to(records.ledger_app)
ledger_evidence.add_to(records.ledger_app)
app.command()(usage.usage)
app.command()(live.live)
app.command()(examine.doctor)
app.add_typer(records.ledger_app, name="ledger")


@app.command()
def version(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print the version. In JSON also which file of the native part is used here, or null."""
    if as_json:
        from interlock.native.scan import native

        found = native()
        put_json({"version": __version__, "native": None if found is None else found.name})
    else:
        put(__version__)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the `interlock` command. Returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = _tree()(args=given, prog_name="interlock", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except typer.Exit as e:
        return e.exit_code
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("interlock: stopped\n")
        return 130
    except InterlockError as e:
        return _failed(e, "--json" in given)
    except BrokenPipeError:
        # whoever read our output has gone; nothing is left to say, not even when Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except typer.TyperException as e:
        words = e.format_message()
        sys.stderr.write(words + "\n" if words.startswith("Usage:") else f"interlock: {words}\n")
        return e.exit_code


@functools.cache
def _tree() -> Callable[..., Any]:
    """The commands as they are called. Building them takes a tenth of a second."""
    return typer.main.get_command(app)


def _failed(error: InterlockError, as_json: bool) -> int:
    details = list(getattr(error, "details", ()) or getattr(error, "errors", ()))
    if as_json:
        put_json({"error": {"code": error.code, "message": error.message, "param": error.param, "details": details}})
    for line in details or [error.message]:
        sys.stderr.write(f"interlock: {line}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
