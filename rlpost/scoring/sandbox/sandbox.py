"""Runs programs in a warm jail, and replaces it when a program damaged it."""

from __future__ import annotations

import atexit
import functools
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from rlpost.errors import ScoringError
from rlpost.scoring.sandbox.execution import Execution, Limits
from rlpost.scoring.sandbox.forms import Form, bubblewrap_options
from rlpost.scoring.sandbox.jail import Jail, JailLostError, lost

TRIES = 2
"""A jail may also be lost for a reason that is not the program's, such as a machine out of memory."""


class Sandbox:
    """One jail at a time, started when the first program comes.

    Threads take turns; a process that was forked starts a jail of its own.

    Args:
        form: of its jails; None: bubblewrap where it works, otherwise plain limits.
        limits: what each program may use unless told otherwise.
    """

    def __init__(self, form: Form | None = None, limits: Limits | None = None) -> None:
        self.form = form
        self.limits = limits or Limits()
        self._jail: Jail | None = None
        self._turn = threading.Lock()

    def run(
        self,
        source: str,
        stdin: str = "",
        *,
        call: tuple[str, Sequence[Any]] | None = None,
        test: tuple[str, str | None] | None = None,
        prelude: str = "",
        limits: Limits | None = None,
    ) -> Execution:
        """Run one Python program.

        Args:
            source: the program.
            stdin: what it reads.
            call: a function, or method of its class `Solution`, that is called afterwards, and its
                arguments, which must be plain JSON; its return value is the record's `value`.
            test: source that runs afterwards where the program's names are, and the name of a function to
                give to its `check`, if any; the record is `completed` when all of it ran.
            prelude: source that runs before the program, for names that it may take for granted.
            limits: for this program.

        Raises:
            ScoringError: no jail can be started.
        """
        request: dict[str, Any] = {"source": source, "stdin": stdin, "prelude": prelude}
        if call is not None:
            request["call"] = {"function": call[0], "arguments": list(call[1])}
        if test is not None:
            request["test"] = {"source": test[0], "entry_point": test[1]}
        with self._turn:
            return self._run(request, limits or self.limits)

    def _run(self, request: dict[str, Any], limits: Limits) -> Execution:
        note = ""
        for _ in range(TRIES):
            jail = self._ready(limits)
            try:
                execution, intact = jail.run(request, limits)
            except JailLostError as error:
                note = str(error)
                self.close()
                continue
            if not intact:
                self.close()
            return execution
        return lost(note)

    def close(self) -> None:
        """End the jail, if there is one."""
        jail, self._jail = self._jail, None
        if jail is not None:
            jail.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ready(self, limits: Limits) -> Jail:
        jail = self._jail
        if jail is not None and (jail.owner != os.getpid() or jail.tmp_bytes != limits.file_bytes):
            self.close()
        if self._jail is None:
            self._jail = Jail(self.form or working_form(), limits.file_bytes)
        return self._jail


@functools.cache
def working_form() -> Form:
    """The form of jails that this machine allows, tried for real once per process.

    Where it is not bubblewrap, a warning says what is not isolated.

    Raises:
        ScoringError: neither form works.
    """
    problem = "it is not installed"
    if bubblewrap_options():
        try:
            _try("bubblewrap")
            return "bubblewrap"
        except ScoringError as error:
            problem = str(error.details["found"] or error.what).strip().splitlines()[-1]
    doors = open_doors(_try("limits"))
    warnings.warn(
        f"CODE FROM THE MODEL RUNS WITHOUT BUBBLEWRAP ({problem}). "
        + (
            f"NOT ISOLATED: {'; '.join(doors)}. "
            if doors
            else "This kernel's namespaces and Landlock stand in for it; they are less tried. "
        )
        + "For the full sandbox install bubblewrap and allow user namespaces (docs/code_rewards.md).",
        stacklevel=2,
    )
    return "limits"


def open_doors(fences: Mapping[str, bool]) -> list[str]:
    """In words, what a program can reach past the fences of the form without bubblewrap."""
    filtered = fences["calls"]
    doors = []
    if not fences["network"] and not filtered:
        doors.append("the network")
    if not fences["processes"]:
        doors.append("the list of all processes" if filtered else "all processes of this user")
    if not fences["home"]:
        doors.append("all files that this user may read, the home directory among them")
    if not fences["writing"]:
        doors.append("all folders that this user may write to, where the next program finds what is left")
    if not fences["tmp_size"]:
        doors.append("the disk, whose use is only looked at now and then")
    return doors


def _try(form: Form) -> dict[str, bool]:
    jail = Jail(form, Limits().file_bytes)
    try:
        execution, _ = jail.run({"source": "print(6 * 7)"}, Limits())
    except JailLostError as error:
        raise ScoringError(f"the code sandbox ({form}) does not work", found=error) from error
    finally:
        jail.close()
    if execution.stdout != "42\n":
        raise ScoringError(f"the code sandbox ({form}) does not work", found=execution)
    return jail.fences


@functools.cache
def shared_sandbox() -> Sandbox:
    """The sandbox of this process; its jail ends with the process."""
    sandbox = Sandbox()
    atexit.register(sandbox.close)
    return sandbox
