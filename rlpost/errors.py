"""Every error that rlpost raises on purpose, and how each one ends the command line.

An error says where it happened, what was found, what was needed and what to do about
it. `UserError` and its children end the command with status 2 (the input is wrong);
every other `RlpostError` ends it with status 1 (the run failed). All of them survive
pickling, because they cross process borders.
"""

from __future__ import annotations

from typing import Any

INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses of a command that ended by Ctrl-C, or because it was told to stop."""


class RlpostError(Exception):
    """Base of all errors of this package.

    Args:
        what: one sentence that names the problem.
        where: file and line, configuration key, actor or tensor.
        found: the value that was found there.
        needed: what would have been right.
        remedy: what the user can do now.
    """

    exit_status = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        found: object = None,
        needed: object = None,
        remedy: object = None,
    ) -> None:
        self.what = what
        self.details = {"where": where, "found": found, "needed": needed, "remedy": remedy}
        super().__init__(self._text())

    def _text(self) -> str:
        lines = [self.what]
        for label, value in self.details.items():
            if value is not None:
                lines.append(f"  {label + ':':8s}{value}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.details)


def _rebuild(kind: type[RlpostError], what: str, details: dict[str, object]) -> RlpostError:
    return kind(what, **details)


def one_line(error: BaseException) -> str:
    """What went wrong, in one line: what an error of rlpost says, or the exception that started it all."""
    if isinstance(error, RlpostError):
        found = str(error.details["found"] or "").strip().splitlines()[:1]
        return ": ".join([error.what, *found])
    while True:
        earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if earlier is None:
            break
        error = earlier
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class UserError(RlpostError):
    """The input is wrong: a configuration, a data file, a reward function, an argument."""

    exit_status = 2


class ConfigError(UserError):
    """A configuration key is unknown, has a wrong type, or contradicts another one."""


class DataError(UserError):
    """A dataset is missing, unreadable, empty, or has a row that breaks its schema."""


class RewardError(UserError):
    """A reward function cannot be loaded, breaks its protocol, or fails its canary."""


class CheckpointError(RlpostError):
    """No usable checkpoint: half-written, damaged, or of another model, config or dataset."""


class NonFiniteError(RlpostError):
    """A loss or gradient is NaN or infinite. No optimizer step was taken; the batch was saved."""


class WeightTransferError(RlpostError):
    """A weight transfer failed its proofs: version, checksum or probe."""


class BrokenTransferError(WeightTransferError):
    """Processes that exchange weights lost each other; which of them is to blame, others know."""


class ScoringError(RlpostError):
    """The scoring workers cannot go on, or too large a share of samples failed to score."""


class RolloutError(RlpostError):
    """An engine or environment failed in a way that a retry would not mend."""


class EngineLostError(RolloutError):
    """An engine's process died or made no progress; no request is to blame, so a fresh one may do better."""


class EndpointError(RlpostError):
    """A model server gave no usable answer to one request, after all retries."""


class EndpointTimeoutError(EndpointError):
    """A model server gave none within the deadline of the request."""


class DeadlineError(RlpostError):
    """Something that others wait for did not answer in time."""


class ActorLostError(RlpostError):
    """An actor's process died, or has been silent for longer than `cluster.hang_deadline_s`.

    Its text ends with the last lines of the actor's log.

    Args:
        role: what the actor is, such as `rollout worker`.
        member: which one of its group.
        log: the file that the lines are from, or why there are none.
        tail: its last lines.
    """

    def __init__(
        self,
        what: str,
        *,
        role: str = "",
        member: int = -1,
        log: object = None,
        tail: tuple[str, ...] = (),
        **details: object,
    ) -> None:
        self.role, self.member, self.log, self.tail = role, member, log, tuple(tail)
        super().__init__(what, **details)

    def _text(self) -> str:
        lines = [super()._text()]
        if self.log is not None:
            lines.append(f"  log:    {self.log}")
        return "\n".join([*lines, *(f"    {line}" for line in self.tail)])

    def __reduce__(self) -> tuple[Any, ...]:
        own = {"role": self.role, "member": self.member, "log": self.log, "tail": self.tail}
        return _rebuild, (type(self), self.what, self.details | own)
