"""Workers: the driver's view of the rollout workers, and the policy's way to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rlpost.cluster import ActorGroup
from rlpost.config.schema import ClusterConfig, RolloutConfig, StageConfig, WeightsConfig
from rlpost.data.trajectory import Prompt, Trajectory, Turn
from rlpost.errors import WeightTransferError
from rlpost.rollout.task import RolloutTask, environment_seed, sample_seed, sampling_settings
from rlpost.training.learners import Learners
from rlpost.training.stopping import raise_if_asked
from rlpost.training.transports import Transport, choose_transport
from rlpost.training.worker_pool import Answer, Task, WorkerPool
from rlpost.weights.transfer import WeightTransfer

PROBE_SEQUENCES, PROBE_TOKENS = 4, 64


class Workers:
    """Keeps the workers' weights at the learner's version and has them sample.

    Args:
        weights: with a `probe_tolerance`.
        report: told when a worker was replaced.
    """

    def __init__(
        self,
        group: ActorGroup,
        weights: WeightsConfig,
        cluster: ClusterConfig,
        prompts: Sequence[Prompt],
        report: Callable[[str], None],
    ) -> None:
        self.group, self._weights, self._cluster = group, weights, cluster
        self.pool = WorkerPool(group, cluster, self._prepare, report)
        probes = [p.token_ids[-PROBE_TOKENS:] for p in prompts if len(p.token_ids) > 1]
        assert weights.probe_tolerance is not None
        self.transfer = WeightTransfer(
            weights.probe_every, weights.probe_tolerance, tuple(probes[:PROBE_SEQUENCES])
        )
        self._sleeps = cluster.placement == "colocated"
        self._asleep = False
        self._rollout: RolloutConfig | None = None
        self._learners: Learners | None = None
        self._transport: Transport | None = None
        self._sent: set[int] = set()
        self._asked: set[str] = set()
        self._kept: list[Answer] = []
        self.version = -1
        self._transferred: dict[str, float] = {}

    def configure(self, rollout: RolloutConfig) -> None:
        """Give every worker a stage's settings."""
        self._rollout = rollout
        self._all("configure", rollout)

    def sync(self, learners: Learners, version: int) -> dict[str, float]:
        """Bring every worker to `version`, with proofs; nothing to do when they are there.

        Responses that are being sampled go on under the new version.

        Returns:
            weights/* metrics of how they came there: the same for a step whether an evaluation sent that
            version before it, or a run was resumed in between.

        Raises:
            WeightTransferError: an engine does not hold what the learner sent.
            DeadlineError: the whole of it took longer than `weights.deadline_s`.
        """
        if self._asleep:
            self._all("wake")
            self._asleep, self.version = False, -1
        if self.version == version:
            return dict(self._transferred)
        self._learners = learners
        metrics = self._send(learners, version)
        self.version, self._transferred = version, metrics
        self.pool.forgive()
        return dict(metrics)

    def bring_back(self) -> None:
        """Send the version anew if replaced workers wait for it; only while learners have nothing to do."""
        if self._learners is not None and self.pool.without_weights:
            self._send(self._learners, self.version)

    def rest(self) -> None:
        """Colocated workers give their memory up to the learner until the next `sync`."""
        if self._sleeps and not self._asleep:
            self._all("sleep")
            self._asleep = True

    def launch(
        self, prompts: Sequence[Prompt], stage: StageConfig, stage_step: int, seed: int, *, greedy: bool
    ) -> list[str]:
        """Have the stage's number of trajectories sampled for every prompt; `poll` brings them.

        Args:
            stage_step: counted from 1; with the stage's name, part of every trajectory's id and seed.
            seed: the run's.
            greedy: sample one more of each prompt, the last one, at temperature 0.

        Returns:
            the trajectories' ids, prompt by prompt.
        """
        settings, samples = sampling_settings(stage.rollout), stage.train.samples_per_prompt
        names = [f"{k:03d}" for k in range(samples)] + (["greedy"] if greedy else [])
        groups = [
            [
                RolloutTask(
                    f"{stage.name}-{stage_step:06d}-{prompt.id}-{name}",
                    prompt,
                    sample_seed(seed, stage.name, stage_step, prompt.id, k),
                    replace(settings, temperature=0.0) if name == "greedy" else settings,
                    stage.environment,
                    environment_seed(seed, stage.name, stage_step, prompt.id),
                )
                for k, name in enumerate(names)
            ]
            for prompt in prompts
        ]
        self.pool.submit(groups)
        return [task.id for group in groups for task in group]

    def poll(self, wait_s: float) -> list[Trajectory]:
        """Trajectories that are complete, not scored; waits at most `wait_s` for the first."""
        launched = (t for t in self._take(wait_s, asked=False) if isinstance(t, Trajectory))
        return list(launched)

    def ask(self, groups: Sequence[Sequence[Task]]) -> None:
        """Have other tasks done, such as an evaluation's; `poll_asked` brings what comes of them."""
        self._asked.update(task.id for group in groups for task in group)
        self.pool.submit(groups)

    def poll_asked(self, wait_s: float) -> list[Answer]:
        """What came of tasks that `ask` was given; waits at most `wait_s` for the first."""
        self.bring_back()
        answers = self._take(wait_s, asked=True)
        self._asked.difference_update(answer.id for answer in answers)
        return answers

    def abandon(self) -> None:
        """Forget all that is being sampled, and which weights there are."""
        self._transport = None
        self.pool.abandon()
        self._sent, self._kept, self._asked, self.version = set(), [], set(), -1

    def _take(self, wait_s: float, *, asked: bool) -> list[Answer]:
        """What came of the tasks of one kind; the others' answers are kept for who wants them."""
        kept = [answer for answer in self._kept if (answer.id in self._asked) == asked]
        fresh = self.pool.poll(0.0 if kept else wait_s)
        for answer in fresh:
            self._check_versions(answer)
        self._kept = [a for a in (*self._kept, *fresh) if (a.id in self._asked) != asked]
        return kept + [answer for answer in fresh if (answer.id in self._asked) == asked]

    def _all(self, method: str, *args: object) -> list[Any]:
        deadline_s = self._weights.deadline_s
        return self.pool.call_all(method, *args, deadline_s=deadline_s, setting="weights.deadline_s")

    def _send(self, learners: Learners, version: int) -> dict[str, float]:
        """A version to all workers, with its proofs; again where a worker without weights took a place."""
        if self._transport is None:
            self._transport = choose_transport(learners, self.pool, self._weights, self._cluster)
        self._sent.add(version)
        metrics: dict[str, float] = {}
        while not metrics or self.pool.without_weights:
            delivery = self._transport.send(learners, version)
            metrics = self.transfer.check(delivery.bundle, delivery.receipts)
            self.pool.give_tasks()
            if self.transfer.due(version):
                metrics |= self._probe(learners, version, delivery.until)
        return metrics

    def _probe(self, learners: Learners, version: int, until: float) -> dict[str, float]:
        sequences = self.transfer.probe_sequences
        answers = self.pool.call_all(
            "probe",
            sequences,
            deadline_s=max(0.0, until - time.monotonic()),
            setting="weights.deadline_s",
            needs_weights=True,
        )
        if self.pool.without_weights:
            return {}
        gap = self.transfer.check_probe(answers, learners.probe(sequences))
        return gap if version % self._weights.probe_every == 0 else {}

    def _prepare(self, member: int) -> bool:
        """Bring a fresh worker to the settings and the weights of the others; see `WorkerPool`."""
        if self._rollout is not None:
            self.group.call(member, "configure", self._rollout)
        return self._transport is None or self._transport.prepare(member)

    def _check_versions(self, answer: Answer) -> None:
        """Refuse tokens of a version that the learner did not send."""
        turns = answer.turns if isinstance(answer, Trajectory) else [answer]
        found = {v for turn in turns if not isinstance(turn, Turn) or turn.by_policy for v in turn.versions}
        if unknown := found - self._sent:
            raise WeightTransferError(
                "a sample was drawn from another policy version than the learner sent",
                where=answer.id,
                found=f"versions {sorted(unknown)}",
                needed=f"some of {sorted(self._sent)[-5:]}",
            )


class WorkersSource:
    """The run's rollout workers, as an evaluation asks them; a `SampleSource`."""

    def __init__(self, workers: Workers, capacity: int | None) -> None:
        self._workers, self.capacity = workers, capacity

    def submit(self, groups: Sequence[Sequence[Task]]) -> None:
        self._workers.ask(groups)

    def poll(self, wait_s: float) -> list[Answer]:
        raise_if_asked()
        return self._workers.poll_asked(wait_s)
