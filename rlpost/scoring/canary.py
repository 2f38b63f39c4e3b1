"""The canary: known answers through the real worker processes, before any time is spent on training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rlpost.data.trajectory import Prompt
from rlpost.errors import RewardError
from rlpost.scoring.batching import score_tasks
from rlpost.scoring.protocol import RewardDescription
from rlpost.scoring.task import Reply, Task

if TYPE_CHECKING:
    from rlpost.scoring.executor import Executor

TOLERANCE = 1e-6
GOLD_NEEDED = "1.0, or no training signal can be trusted"
GOLD_REMEDY = (
    "correct the row or the function; if a right response looks different, add "
    "`gold_completion(answer)` to its file; scoring.canary=false skips this check"
)


@dataclass(frozen=True)
class Failure:
    """A known answer that was not judged as it must be.

    Attributes:
        prompt: of its row; None for a case of the file's own.
        response: what was scored; None when there was nothing to score.
        reply: what came of it.
        problem: in words, to go after the reward's name.
        needed, remedy: for the error's message.
    """

    prompt: Prompt | None
    response: str | None
    reply: Reply
    problem: str
    needed: object = None
    remedy: str | None = None

    @property
    def score(self) -> float | None:
        """The score, where there is one."""
        return _score(self.reply)

    @property
    def got(self) -> str:
        """Score, outcome and note in one line."""
        return _outcome(self.reply)

    @property
    def found(self) -> str:
        """The response and what it got."""
        return self.got if self.response is None else f"the response {self.response!r:.300} got {self.got}"

    @property
    def described(self) -> str:
        """The row and what it got."""
        return self.found if self.prompt is None else f"{row_of(self.prompt)}: {self.found}"


@dataclass(frozen=True)
class Trial:
    """One kind of known answers, tried on one reward.

    Attributes:
        reward: whose.
        kind: "gold" responses score 1.0, "selfcheck" cases score what the file says, "garbage" scores less
            than 1.0.
        tried: how many.
        skipped: those of them to which the function does not apply.
        failures: in the order of the rows.
    """

    reward: RewardDescription
    kind: Literal["gold", "selfcheck", "garbage"]
    tried: int
    skipped: int
    failures: Sequence[Failure]


def try_rewards(executor: Executor, prompts: Sequence[Prompt], *, all_cases: bool = False) -> Iterator[Trial]:
    """Each reward on the gold responses of `prompts`, or on its own `selfcheck`, and on garbage.

    Args:
        all_cases: try `selfcheck` also of a reward that gold responses tell enough about.
    """
    for index, description in enumerate(executor.descriptions):
        golden = description.uses_answer or description.has_gold
        if golden:
            yield _try_gold(executor, index, description, prompts)
        if description.has_selfcheck and (all_cases or not golden):
            yield _try_cases(executor, index, description)
        yield _try_garbage(executor, index, description, prompts)


def only_timeouts(trial: Trial) -> bool:
    """Whether no response was scored before its deadline: further ones would cost as long each."""
    replies = [failure.reply for failure in trial.failures]
    return 0 < trial.tried == len(replies) and all(reply.failed == "timeout" for reply in replies)


def judge(trials: Iterable[Trial], max_failure_share: float) -> list[str]:
    """Turn what the trials found into an error, or into remarks.

    Args:
        max_failure_share: of the responses of one kind may fail to score; a wrong score is always an error,
            and so is everything about `selfcheck`.

    Returns:
        for people: of each reward that failed within that share, how often, and where first.

    Raises:
        RewardError: a gold response did not score 1.0, garbage did, or the function failed too often.
    """
    within: dict[str, list[Failure]] = {}
    for trial in trials:
        allowed = 0.0 if trial.kind == "selfcheck" else max_failure_share * trial.tried
        failed = [f for f in trial.failures if f.score is None]
        wrong = [f for f in trial.failures if f.score is not None]
        if len(failed) > allowed:
            unwritten = [f for f in failed if f.response is None]
            scored = [f for f in trial.failures if f.response is not None]
            raise _error(trial, unwritten if len(unwritten) > allowed or not scored else scored)
        if wrong:
            raise _error(trial, wrong)
        if failed:
            within.setdefault(trial.reward.name, []).extend(failed)
    return [
        f"canary: reward {name!r} failed on {len(failed)} of the responses tried, "
        f"as scoring.max_failure_share allows; the first is {failed[0].described}"
        for name, failed in within.items()
    ]


def _try_gold(
    executor: Executor, index: int, description: RewardDescription, prompts: Sequence[Prompt]
) -> Trial:
    golds = executor.run([Task("gold", index, columns=p.columns) for p in prompts])
    failures, known = [], []
    for prompt, reply in zip(prompts, golds, strict=True):
        if reply.value is None or "gold" not in reply.value:
            failures.append(Failure(prompt, None, reply, "cannot be tried: its `gold_completion` failed"))
        else:
            known.append((prompt, str(reply.value["gold"])))
    replies, _ = score_tasks(executor, [Task("score", index, p.text, text, p.columns) for p, text in known])
    for (prompt, text), reply in zip(known, replies, strict=True):
        score = _score(reply)
        if not _skips(reply) and (score is None or abs(score - 1) > TOLERANCE):
            problem = "fails on a gold answer" if score is None else "does not give a gold answer 1.0"
            failures.append(Failure(prompt, text, reply, problem, GOLD_NEEDED, GOLD_REMEDY))
    return Trial(description, "gold", len(prompts), sum(map(_skips, replies)), failures)


def _try_cases(executor: Executor, index: int, description: RewardDescription) -> Trial:
    [reply] = executor.run([Task("selfcheck", index)])
    if reply.value is None or "cases" not in reply.value:
        problem = "cannot be tried: its `selfcheck` failed"
        return Trial(description, "selfcheck", 0, 0, [Failure(None, None, reply, problem)])
    cases = [(dict(arguments), expected) for arguments, expected in reply.value["cases"]]
    tasks = [
        Task("case", index, str(arguments.pop("prompt", "")), str(arguments.pop("completion", "")), arguments)
        for arguments, _ in cases
    ]
    failures = [
        Failure(None, task.completion, answer, "contradicts its own `selfcheck`", expected)
        for task, answer, (_, expected) in zip(tasks, executor.run(tasks), cases, strict=True)
        if (score := _score(answer)) is None or abs(score - expected) > TOLERANCE
    ]
    return Trial(description, "selfcheck", len(cases), 0, failures)


def _try_garbage(
    executor: Executor, index: int, description: RewardDescription, prompts: Sequence[Prompt]
) -> Trial:
    garbage = description.garbage
    replies, _ = score_tasks(executor, [Task("score", index, p.text, garbage, p.columns) for p in prompts])
    failures = []
    for prompt, reply in zip(prompts, replies, strict=True):
        score = _score(reply)
        if score is None and not _skips(reply):
            problem = "fails on a response without an answer"
            needed = "a score for whatever a model may write"
            failures.append(Failure(prompt, garbage, reply, problem, needed))
        elif score is not None and score >= 1 and (description.uses_answer or description.has_gold):
            remedy = "correct the function; scoring.canary=false skips this check"
            failures.append(
                Failure(prompt, garbage, reply, f"gives garbage {score:g}", "less than 1.0", remedy)
            )
    return Trial(description, "garbage", len(prompts), sum(map(_skips, replies)), failures)


def _error(trial: Trial, failures: Sequence[Failure]) -> RewardError:
    first = failures[0]
    unwritten = sum(f.response is None for f in trial.failures)
    tried = trial.tried if first.response is None else trial.tried - unwritten
    share = f" ({len(failures)} of {tried} rows tried)" if trial.kind == "gold" else ""
    row = "" if first.prompt is None else f"{row_of(first.prompt)}; "
    return RewardError(
        f"reward {trial.reward.name!r} {first.problem}{share}",
        where=f"{row}reward at {trial.reward.source}",
        found=first.found,
        needed=first.needed,
        remedy=first.remedy,
    )


def _skips(reply: Reply) -> bool:
    """Whether the function says that it does not apply to this row."""
    return reply.value is not None and reply.value.get("outcome") == "scored" and _score(reply) is None


def _score(reply: Reply) -> float | None:
    return None if reply.value is None else reply.value.get("score")


def _outcome(reply: Reply) -> str:
    if reply.value is None:
        return f"{reply.failed}: {reply.note}"
    score, outcome, note = (reply.value.get(k) for k in ("score", "outcome", "note"))
    head = outcome if score is None else f"{score:g} ({outcome})"
    return f"{head}: {note}" if note else str(head)


def row_of(prompt: Prompt) -> str:
    """The row's id, its place and its gold answer, for messages."""
    answer = prompt.columns.get("answer")
    place = f" ({prompt.place})" if prompt.place else ""
    return f"row {prompt.id!r}{place}" + ("" if answer is None else f" with answer {str(answer)[-200:]!r}")
