"""Rollouts: a step's batch from sampled and scored responses, the next steps' batches on their way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from rlpost.config.schema import StageConfig
from rlpost.data import PromptSampler
from rlpost.data.trajectory import Prompt
from rlpost.estimator import Objective
from rlpost.scoring.line import ScoringLine
from rlpost.training.learners import Learners
from rlpost.training.lookahead import Lookahead, OpenBatch
from rlpost.training.recording import write_rollouts
from rlpost.training.rounds import wants_greedy
from rlpost.training.run_directory import RunDirectory
from rlpost.training.sources import StepData, step_data
from rlpost.training.state import RunState
from rlpost.training.stopping import at_once, raise_if_asked
from rlpost.training.workers import Workers

WAIT_S = 0.5
"""Longest wait for workers before other things are looked after."""

SCORING_WAIT_S = 0.02
"""The same while samples are being scored."""


class Rollouts:
    """A stage's batches. Whatever `train.max_staleness` is, this is the code that runs.

    Args:
        seed: the run's.
        line: scores what workers bring.
        keep: the run directory, to write every complete round to; None keeps nothing.
        report_every_s: a longer wait for a batch is reported, again and again.
        report: told of it.
    """

    def __init__(
        self,
        stage: StageConfig,
        seed: int,
        learners: Learners,
        workers: Workers,
        line: ScoringLine,
        keep: RunDirectory | None,
        report_every_s: float,
        report: Callable[[str], None],
    ) -> None:
        self.stage, self.seed, self.keep = stage, seed, keep
        self.learners, self.workers, self.line = learners, workers, line
        self._report_every_s, self._report = report_every_s, report
        self._lookahead: Lookahead | None = None
        self._sampler: PromptSampler | None = None
        self._steps_before = 0

    def collect(self, sampler: PromptSampler, objective: Objective, state: RunState) -> StepData:
        """The batch of the stage's next step; opens those that may be sampled meanwhile.

        Raises:
            RlpostError: workers, scorers or weights failed beyond repair.
        """
        start = time.perf_counter()
        metrics = self.workers.sync(self.learners, state.version)
        synced = time.perf_counter()
        step = state.stage_step + 1
        if self._lookahead is None or sampler is not self._sampler:
            self._sampler = sampler
            self._steps_before = state.step - state.stage_step
            self._lookahead = self._new_lookahead(sampler, objective)
        self._lookahead.open(step, step + self.stage.train.max_staleness)
        batch = self._wait_for(step, self._lookahead)
        self.workers.rest()
        assert batch.gathered is not None
        metrics |= {
            "rollout/worker_restarts": float(self.workers.pool.replaced),
            "rollout/resubmitted_samples": float(self.workers.pool.resubmitted),
            "scoring/repeated": float(self.line.take_repeated()),
            "rollout/batches_ahead": float(len(self._lookahead.missing)),
            "time/transfer_s": synced - start,
            "time/rollout_s": time.perf_counter() - synced,
            "time/scoring_s": self.line.take_seconds(),
        }
        metrics |= self._environment_metrics()
        self.workers.pool.replaced = self.workers.pool.resubmitted = 0
        data = step_data(batch.gathered, objective, self.stage, metrics, state.version)
        return data.drawn(batch.sampler, batch.epoch)

    def _environment_metrics(self) -> dict[str, float]:
        if self.stage.environment is None:
            return {}
        waited_s, replaced = self.workers.pool.take_environments()
        return {
            "environment/wait_s": waited_s,
            "environment/process_restarts": float(replaced),
        }

    def pump(self) -> None:
        """Hand on what is finished, without waiting: for moments in which the driver waits for learners."""
        if self._lookahead is not None and self._lookahead.missing and not self.workers.pool.engaged:
            self._turn(self._lookahead, 0.0)

    def _new_lookahead(self, sampler: PromptSampler, objective: Objective) -> Lookahead:
        train, greedy = self.stage.train, wants_greedy(objective)

        def launch(step: int, prompts: Sequence[Prompt]) -> list[str]:
            return self.workers.launch(prompts, self.stage, step, self.seed, greedy=greedy)

        return Lookahead(
            sampler, objective, train.prompts_per_step, train.steps, launch, self._round_is_complete
        )

    def _wait_for(self, step: int, lookahead: Lookahead) -> OpenBatch:
        reported = time.monotonic()
        while (batch := lookahead.pop(step)) is None:
            raise_if_asked()
            self.workers.bring_back()
            self._turn(lookahead, SCORING_WAIT_S if self.line.busy else WAIT_S)
            if time.monotonic() - reported > self._report_every_s:
                reported = time.monotonic()
                self._report(self._describe(step, lookahead))
        return batch

    def _turn(self, lookahead: Lookahead, wait_s: float) -> None:
        """Workers' answers go to the scorer, scored ones to their batches."""
        if self.workers.pool.outstanding:
            answers = self.workers.poll(wait_s)
            # Inline this is where rewards are waited for, and the driver has no other part in it.
            with nullcontext() if self.line.background else at_once():
                self.line.put(answers)
            wait_s = 0.0
        lookahead.take(self.line.take(wait_s))

    def _round_is_complete(self, batch: OpenBatch) -> None:
        if self.keep is not None:
            write_rollouts(self.keep.rollouts(self._steps_before + batch.step), batch.trajectories)
        self.line.scorer.check_failures([t.reward for t in batch.trajectories if t.reward is not None])

    def _describe(self, step: int, lookahead: Lookahead) -> str:
        missing = ", ".join(f"step {s}: {count}" for s, count in lookahead.missing.items())
        lines = [f"still waiting for the responses of stage {self.stage.name} ({missing} missing)"]
        return "\n  ".join(lines + self.workers.pool.describe() + self.line.describe())
