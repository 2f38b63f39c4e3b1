"""The `rlpost` command itself: errors become one message and an exit status, signals an orderly end."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from rlpost.cli.text import remote_traceback, root_cause
from rlpost.errors import RlpostError

INTERRUPTED, TERMINATED = 130, 143
SPIN_COUNT = "20000"

app = typer.Typer(
    name="rlpost",
    help="Post-train language models with reinforcement learning.",
    epilog="Start here:  rlpost train configs/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; errors become one message and an exit status, never a user's traceback."""
    # Torch's threads wait for each other by spinning, by default so long that one busy neighbour makes a
    # small model ten times slower. Read when torch is first imported; child processes inherit it.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    try:
        app()
    except RlpostError as error:
        print(f"{remote_traceback(error)}error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except Exception as error:
        traceback.print_exc()
        print(f"error: {root_cause(error)}", file=sys.stderr)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _rlpost(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from rlpost import __version__

        typer.echo(__version__)
        raise typer.Exit


class _Terminated(BaseException):
    """SIGTERM, raised where it came so that everything is ended in order; no `except Exception` takes it."""


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """On Ctrl-C and on SIGTERM, end with status 130 or 143 and say how to go on."""

    from rlpost.training import stopping

    def terminate(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stopping.ask_to_stop(error := _Terminated())
        raise error

    def interrupt(number: int, frame: object) -> None:
        stopping.ask_to_stop(error := KeyboardInterrupt())
        raise error

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    # A script's background job is started deaf to Ctrl-C, and is to stay so.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except (KeyboardInterrupt, _Terminated, SystemError) as error:
        # Compiled code may hand on what a signal raised in it as the cause of a SystemError.
        signalled = error.__cause__ if isinstance(error, SystemError) else error
        if isinstance(signalled, KeyboardInterrupt):
            print(f"\ninterrupted; {advice}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        if isinstance(signalled, _Terminated):
            print(f"\nended by SIGTERM; {advice}", file=sys.stderr)
            raise typer.Exit(TERMINATED) from None
        raise
    finally:
        stopping.forget()
        for number, handler in before.items():
            signal.signal(number, handler)
