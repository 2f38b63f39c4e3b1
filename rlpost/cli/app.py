"""The `rlpost` command itself: errors become one message and an exit status, signals an orderly end."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from rlpost.cli.text import remote_traceback
from rlpost.errors import INTERRUPTED, TERMINATED, RlpostError, one_line

SPIN_COUNT = "20000"
GARBAGE_AFTER = 50_000
"""New objects after which Python looks for garbage. Imports make half a million that stay, and to look after
every 700 of them, as Python does, takes a tenth of the time until a run begins."""

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
    gc.set_threshold(GARBAGE_AFTER, *gc.get_threshold()[1:])
    try:
        app()
    except RlpostError as error:
        print(f"{remote_traceback(error)}error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except Exception as error:
        traceback.print_exc()
        print(f"error: {one_line(error)}", file=sys.stderr)
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
    """A signal, raised where it came so that everything is ended in order; no `except Exception` takes it."""


@contextmanager
def interruptible(advice: str, *, on_interrupt: str | None = None, notices: bool = False) -> Iterator[None]:
    """On Ctrl-C and on SIGTERM, end with status 130 or 143 and say how to go on.

    Args:
        on_interrupt: said after Ctrl-C in the place of `advice`.
        notices: hand SIGTERM and SIGUSR1 to `rlpost.training.stopping`, so that a run that is at work saves a
            checkpoint first; before it is at work, or when it takes too long over that, they end it at once.
    """
    from rlpost.training import stopping

    overdue: list[str] = []

    def terminate(number: int, frame: object) -> None:
        name = signal.Signals(number).name
        if notices and not overdue and stopping.notice(name):
            stopping.raise_at_once()
            return
        for each in (signal.SIGTERM, signal.SIGUSR1) if notices else (signal.SIGTERM,):
            signal.signal(each, signal.SIG_IGN)
        stopping.ask_to_stop(error := _Terminated(overdue[0] if overdue else name))
        raise error

    def interrupt(number: int, frame: object) -> None:
        stopping.ask_to_stop(error := KeyboardInterrupt())
        raise error

    def end_now(reason: str) -> None:
        overdue.append(reason)
        signal.pthread_kill(main.ident or 0, signal.SIGTERM)

    main = threading.current_thread()
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    if notices:
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, terminate)
        stopping.end_with(end_now)
    # A script's background job is started deaf to Ctrl-C, and is to stay so.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except stopping.Stopped as stopped:
        print(f"\n{stopped}; {advice}", file=sys.stderr)
        raise typer.Exit(TERMINATED) from None
    except (KeyboardInterrupt, _Terminated, SystemError) as error:
        # Compiled code may hand on what a signal raised in it as the cause of a SystemError.
        signalled = error.__cause__ if isinstance(error, SystemError) else error
        if isinstance(signalled, KeyboardInterrupt):
            print(f"\ninterrupted; {on_interrupt or advice}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        if isinstance(signalled, _Terminated):
            print(f"\nended by {signalled}; {advice}", file=sys.stderr)
            raise typer.Exit(TERMINATED) from None
        raise
    finally:
        stopping.forget()
        for number, handler in before.items():
            signal.signal(number, handler)
