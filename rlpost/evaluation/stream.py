"""Problems on their way: asked, sampled, scored beside that, and handed out one by one when complete."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rlpost.config.schema import EnvironmentConfig
from rlpost.data.trajectory import Prompt, RewardResult, Trajectory
from rlpost.errors import RolloutError
from rlpost.evaluation.generations import Ending, Generation
from rlpost.evaluation.sample_source import SampleSource
from rlpost.rollout.engine import FailedSample, Sample, SampleRequest, SamplingSettings
from rlpost.rollout.task import RolloutTask

if TYPE_CHECKING:
    from rlpost.scoring import Scorer

Answer = Sample | FailedSample | Trajectory

Group = tuple[Generation, ...]
"""All generations of one problem."""

WAIT_S = 1.0
"""Longest wait for the source before progress is told."""

SCORING_WAIT_S = 0.02
"""The same while problems are being scored."""

CAPACITIES_AHEAD = 3
"""Responses on the way, in units of what the source works on at the same time: enough to keep it busy
while problems are scored."""


@dataclass
class Problem:
    """One problem and what has come of it.

    Attributes:
        index: its position in the data, from 0.
        seeds: of its n samples.
        answers: what the source brought, by sample.
    """

    index: int
    prompt: Prompt
    seeds: Sequence[int]
    answers: dict[int, Answer] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.answers) == len(self.seeds)


class ProblemStream:
    """Has problems sampled and scored.

    Args:
        max_prompt_tokens: longer prompts are not asked, which counts as wrong; None asks all.
        check: sees each sample or trajectory before it counts; what it raises ends the stream.
        environment: what answers the model; the source is then asked for trajectories, by `RolloutTask`s.
    """

    def __init__(
        self,
        source: SampleSource,
        scorer: Scorer,
        settings: SamplingSettings,
        max_prompt_tokens: int | None,
        check: Callable[[Sample | Trajectory], None],
        environment: EnvironmentConfig | None = None,
    ) -> None:
        self._source, self._scorer, self._settings = source, scorer, settings
        self._max_prompt_tokens, self._check = max_prompt_tokens, check
        self._environment = environment
        self._waiting: deque[Problem] = deque()
        self._asked: dict[str, tuple[Problem, int]] = {}
        self._sampled: list[Problem] = []
        self._scoring: Future[list[Group]] | None = None
        self._on_the_way = 0
        self.score_s = 0.0
        """Seconds that scoring took, beside sampling."""

    def run(self, problems: Iterable[Problem]) -> Iterator[list[Group]]:
        """The problems that were completed since the last time, maybe none, until all are.

        Raises:
            RlpostError: the source or the scorer cannot go on. What the source still works on is its
                owner's to end.
        """
        self._waiting.extend(problems)
        scorers = ThreadPoolExecutor(1, "scoring")
        try:
            while self._waiting or self._asked or self._sampled or self._scoring:
                self._ask()
                self._take()
                yield self._scored(scorers)
        finally:
            scorers.shutdown(wait=False, cancel_futures=True)

    def _ask(self) -> None:
        """Submit as many problems as there is room for, and not one by one."""
        if not self._waiting:
            return
        capacity, n = self._source.capacity, len(self._waiting[0].seeds)
        most = len(self._waiting) * n if capacity is None else max(n, CAPACITIES_AHEAD * capacity)
        if self._on_the_way > most - max(n, most // 8):
            return
        groups = []
        while self._waiting and self._on_the_way + n <= most:
            problem = self._waiting.popleft()
            self._on_the_way += n
            if self._too_long(problem.prompt):
                self._sampled.append(problem)
                continue
            ids = [f"{problem.index:06d}-{k:03d}" for k in range(n)]
            self._asked |= {id: (problem, k) for k, id in enumerate(ids)}
            seeds = zip(ids, problem.seeds, strict=True)
            groups.append([self._request(id, problem.prompt, seed) for id, seed in seeds])
        if groups:
            self._source.submit(groups)

    def _take(self) -> None:
        """Wait for the source; or for the scorer, when nothing is being sampled."""
        if not self._asked:
            if self._scoring is not None:
                wait([self._scoring], WAIT_S)
            return
        for answer in self._source.poll(WAIT_S if self._scoring is None else SCORING_WAIT_S):
            if answer.id not in self._asked:
                raise RolloutError(
                    "the engine answered what it was not asked", where=f"request {answer.id!r}"
                )
            problem, sample = self._asked.pop(answer.id)
            if not isinstance(answer, FailedSample):
                self._check(answer)
            problem.answers[sample] = answer
            if problem.complete:
                self._sampled.append(problem)

    def _scored(self, scorers: ThreadPoolExecutor) -> list[Group]:
        groups: list[Group] = []
        if self._scoring is not None and self._scoring.done():
            groups, self._scoring = self._scoring.result(), None
            self._on_the_way -= sum(map(len, groups))
        if self._sampled and self._scoring is None:
            self._scoring, self._sampled = scorers.submit(self._score, self._sampled), []
        return groups

    def _request(self, id: str, prompt: Prompt, seed: int) -> SampleRequest | RolloutTask:
        if self._environment is not None:
            return RolloutTask(id, prompt, seed, self._settings, self._environment, seed)
        return SampleRequest(id, prompt.token_ids, seed, self._settings, prompt.text)

    def _score(self, problems: Sequence[Problem]) -> list[Group]:
        start = time.perf_counter()
        rewards = iter(self._rewards(problems))
        groups = [self._generations(problem, rewards) for problem in problems]
        self.score_s += time.perf_counter() - start
        return groups

    def _rewards(self, problems: Sequence[Problem]) -> Sequence[RewardResult | None]:
        """Of all samples or trajectories, in their order."""
        from rlpost.scoring import ScoreItem

        answers = [(p.prompt, answer) for p in problems for _, answer in sorted(p.answers.items())]
        if self._environment is not None:
            played = [answer for _, answer in answers if isinstance(answer, Trajectory)]
            return [trajectory.reward for trajectory in self._scorer.score(played)]
        items = [
            ScoreItem(prompt.text, prompt.prefill + answer.text, prompt.columns)
            for prompt, answer in answers
            if isinstance(answer, Sample)
        ]
        return self._scorer.score_items(items) if items else []

    def _generations(self, problem: Problem, rewards: Iterator[RewardResult | None]) -> Group:
        if self._too_long(problem.prompt):
            found, limit = len(problem.prompt.token_ids), self._max_prompt_tokens
            reward = RewardResult(0.0, "unparseable", note=f"not asked: {found} prompt tokens, {limit} fit")
            return tuple(_not_sampled(problem, k, "too_long", reward) for k in range(len(problem.seeds)))
        group = []
        for k, answer in sorted(problem.answers.items()):
            if isinstance(answer, FailedSample):
                reward = RewardResult(None, answer.outcome, note=answer.note)
                group.append(_not_sampled(problem, k, "unanswered", reward))
                continue
            given = next(rewards)
            assert given is not None
            if isinstance(answer, Trajectory):
                group.append(_played(problem, k, answer, given))
            else:
                group.append(_sampled(problem, k, answer, given))
        return tuple(group)

    def _too_long(self, prompt: Prompt) -> bool:
        return self._max_prompt_tokens is not None and len(prompt.token_ids) > self._max_prompt_tokens


def _sampled(problem: Problem, k: int, sample: Sample, reward: RewardResult) -> Generation:
    text = problem.prompt.prefill + sample.text
    return _generation(problem, k, sample.token_ids, sample.tokens, text, sample.finish_reason, reward)


def _played(problem: Problem, k: int, trajectory: Trajectory, reward: RewardResult) -> Generation:
    """An episode; one whose environment failed is to be asked again, whatever was said in it."""
    assert trajectory.episode is not None
    ending: Ending = "length" if trajectory.truncated else trajectory.finish_reason
    spoken = [turn for turn in trajectory.turns if turn.by_policy]
    generation = _generation(
        problem,
        k,
        tuple(trajectory.token_ids),
        sum(len(turn.token_ids) for turn in spoken),
        trajectory.text,
        "unanswered" if trajectory.episode.failed else ending,
        reward,
    )
    return replace(generation, prompt=trajectory.prompt.text, turns=len(spoken))


def _not_sampled(problem: Problem, k: int, why: Ending, reward: RewardResult) -> Generation:
    return _generation(problem, k, (), 0, "", why, reward)


def _generation(
    problem: Problem,
    k: int,
    token_ids: tuple[int, ...],
    tokens: int | None,
    text: str,
    ending: Ending,
    reward: RewardResult,
) -> Generation:
    return Generation(
        problem=problem.index,
        prompt_id=problem.prompt.id,
        sample=k,
        seed=problem.seeds[k],
        prompt=problem.prompt.text,
        token_ids=token_ids,
        tokens=tokens,
        text=text,
        finish_reason=ending,
        reward=reward,
        columns=problem.prompt.columns,
    )
