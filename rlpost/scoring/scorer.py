"""Scorer: reward functions over trajectories, weighted and summed, with failures kept apart from zeros."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rlpost.data.trajectory import Prompt, RewardResult, Trajectory
from rlpost.errors import RewardError, ScoringError
from rlpost.scoring.batching import score_tasks
from rlpost.scoring.canary import Trial, judge, only_timeouts, try_rewards
from rlpost.scoring.episodes import completion, failed_episode, is_of_environment, reward_of
from rlpost.scoring.executor import Executor
from rlpost.scoring.task import Reply, Task
from rlpost.scoring.verdict import FAILED, Verdict, failure

if TYPE_CHECKING:
    from rlpost.config.schema import RewardConfig, ScoringConfig

FIRST_TRIED = 2
"""Gold answers that are tried before all others."""
SEVERITY = ("scored", "unparseable", "timeout", "error")


@dataclass(frozen=True, slots=True)
class ScoreItem:
    """One response to score.

    Attributes:
        prompt: as the model read it.
        completion: the response's text.
        columns: the dataset row; reward functions receive these by name.
    """

    prompt: str
    completion: str
    columns: Mapping[str, Any] = field(default_factory=dict)


class Scorer:
    """The reward functions of a stage in their worker processes; close it, or use it in a `with` statement.

    Calls may come from any thread, event-loop executor or Ray actor, one at a time or not.

    Args:
        environment: trajectories bring rewards of their environment, so that there need be no function.
        unread: nothing reads rewards, as in supervised stages and in distillation, so that there need be no
            function either; a trajectory that nothing judges is then scored 0.0, with no parts.

    Raises:
        RewardError: a function cannot be loaded, or two have the same name.
        ScoringError: the worker processes do not start.
    """

    def __init__(
        self,
        rewards: Sequence[RewardConfig],
        scoring: ScoringConfig,
        *,
        environment: bool = False,
        unread: bool = False,
    ) -> None:
        if not (rewards or environment or unread):
            raise RewardError(
                "there is no reward function", where="rewards", remedy="name one, such as gsm8k"
            )
        self._weights = [r.weight for r in rewards]
        self._max_failure_share, self._unread = scoring.max_failure_share, unread
        self._repeated, self._count_lock = 0, threading.Lock()
        self._executor = Executor(rewards, scoring)
        self.descriptions = self._executor.descriptions
        names = Counter(d.name for d in self.descriptions)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            self.close()
            raise RewardError(
                f"two rewards are named {twice[0]!r}",
                where="rewards",
                remedy="give one of them another `name`",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes and everything they started."""
        self._executor.close()

    def describe(self) -> list[str]:
        """What the worker processes do at the moment, for people."""
        return self._executor.describe()

    def check_columns(self, columns: Iterable[str]) -> None:
        """Make sure that the dataset has what the functions require.

        Raises:
            RewardError: names the first missing column and those that there are.
        """
        available = list(columns)
        for description in self.descriptions:
            for needed in description.needs:
                if not set(needed) & set(available):
                    raise RewardError(
                        f"reward {description.name!r} needs the column {' or '.join(map(repr, needed))}",
                        where=description.source,
                        found=f"columns: {', '.join(available) or 'none'}",
                        remedy="rename the column or the parameter, set it under the reward's `options`, "
                        "or give it a default",
                    )

    def canary(
        self, prompts: Sequence[Prompt], *, sample: int = 32, max_failure_share: float = 0.0
    ) -> list[str]:
        """Try the rewards, in the real worker processes, on known answers of at most `sample` prompts.

        A gold response must score 1.0 and garbage less; a reward without a gold answer runs its own
        `selfcheck`. At most `max_failure_share` of these responses may fail to score; a wrong score is always
        an error.

        Returns:
            for people: of each reward that failed within that share, how often, and where first.

        Raises:
            RewardError: names the row, the gold answer, the score and the note.
        """
        self.check_columns(prompts[0].columns if prompts else ())
        count = min(sample, len(prompts))
        self.check_columns(prompts[0].columns if prompts else ())
        count = min(sample, len(prompts))
        tried = [prompts[k * len(prompts) // count] for k in range(count)]
        return judge(try_rewards(self._executor, tried), max_failure_share)

    def try_answers(self, prompts: Sequence[Prompt]) -> list[Trial]:
        """What the canary finds on all of these prompts, failures included.

        On the first ones alone, where a function never answers to them in time.

        Raises:
            RewardError: a required column is missing.
        """
        self.check_columns(prompts[0].columns if prompts else ())
        if len(prompts) > FIRST_TRIED:
            first = list(try_rewards(self._executor, prompts[:FIRST_TRIED]))
            if any(map(only_timeouts, first)):
                return first
        return list(try_rewards(self._executor, prompts, all_cases=True))

    def score(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """The same trajectories with their rewards, those of their environments included.

        Reward functions are not asked about an episode that failed. Of the others they read what the model
        said, turn by turn.
        """
        read = [t for t in trajectories if self.descriptions and failed_episode(t) is None]
        items = [ScoreItem(t.prompt.text, completion(t), t.prompt.columns) for t in read]
        results = iter(self.score_items(items) if items else [])
        scored = []
        for trajectory in trajectories:
            reward = failed_episode(trajectory)
            if reward is None:
                unjudged = RewardResult(0.0) if self._unread and trajectory.episode is None else None
                reward = reward_of(trajectory, next(results) if self.descriptions else unjudged)
            scored.append(replace(trajectory, reward=reward))
        return scored

    def score_items(self, items: Sequence[ScoreItem]) -> list[RewardResult]:
        """One result per item: the weighted sum of the rewards, or the worst outcome when one failed."""
        return [result for result, _ in self.score_timed(items)]

    def score_timed(self, items: Sequence[ScoreItem]) -> list[tuple[RewardResult, float]]:
        """As `score_items`, with the seconds that each item's reward functions ran."""
        count = len(self.descriptions)
        tasks = [
            Task("score", index, item.prompt, item.completion, item.columns)
            for item in items
            for index in range(count)
        ]
        replies, repeated = score_tasks(self._executor, tasks)
        with self._count_lock:
            self._repeated += repeated
        rows = [replies[start : start + count] for start in range(0, len(replies), count)]
        return [(self._combine(row), sum(reply.seconds for reply in row)) for row in rows]

    def take_repeated(self) -> int:
        """Calls of reward functions that were made again for one sample, its batch having failed, since the
        last time that this was asked."""
        with self._count_lock:
            repeated, self._repeated = self._repeated, 0
        return repeated

    def check_failures(self, results: Sequence[RewardResult]) -> None:
        """Stop when too many samples could not be scored.

        Raises:
            ScoringError: more than `scoring.max_failure_share` of the results failed.
        """
        failed = [r for r in results if r.failed]
        if len(failed) <= self._max_failure_share * len(results):
            return
        counts = ", ".join(
            f"{count} {outcome}" for outcome, count in Counter(r.outcome for r in failed).items()
        )
        notes = "\n".join(dict.fromkeys(r.note for r in failed[:3]))
        environments = sum(is_of_environment(r) for r in failed)
        remedies = {
            False: "mend the reward function, or raise scoring.deadline_s if its answers are merely slow",
            True: "mend the environment, or raise environment.turn_deadline_s if its answers are merely slow",
        }
        raise ScoringError(
            f"{len(failed)} of {len(results)} samples could not be scored ({counts})"
            + (f", {environments} because their environment failed" if environments else ""),
            found=notes or "no notes",
            needed=f"at most {self._max_failure_share:.0%} (scoring.max_failure_share)",
            remedy=remedies[2 * environments > len(failed)],
        )

    def _combine(self, replies: Sequence[Reply]) -> RewardResult:
        verdicts = [_verdict(reply) for reply in replies]
        parts, notes, total = {}, [], 0.0
        for description, weight, verdict in zip(self.descriptions, self._weights, verdicts, strict=True):
            if verdict["score"] is not None:
                parts[description.name] = verdict["score"]
                total += weight * verdict["score"]
            parts |= {f"{description.name}/{name}": part for name, part in verdict["parts"].items()}
            if verdict["note"]:
                notes.append(
                    verdict["note"] if len(verdicts) == 1 else f"{description.name}: {verdict['note']}"
                )
        outcome = max((v["outcome"] for v in verdicts), key=SEVERITY.index)
        if all(v["outcome"] == "scored" and v["score"] is None for v in verdicts):
            outcome, notes = "error", [*notes, "no reward function applies to this response"]
        failed = outcome in FAILED
        return RewardResult(None if failed else total, outcome, parts, "; ".join(notes))


def _verdict(reply: Reply) -> Verdict:
    return failure(reply.note, reply.failed) if reply.failed else Verdict(**reply.value)
