"""Workers: the driver's view of the rollout workers, and the policy's way to them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from rlpost.cluster import ActorGroup
from rlpost.config.schema import RolloutConfig, StageConfig, WeightsConfig
from rlpost.data.trajectory import Prompt, Trajectory
from rlpost.errors import WeightTransferError
from rlpost.rollout.engine import Sample, SampleRequest
from rlpost.rollout.worker import RolloutTask, sample_seed, sampling_settings
from rlpost.training.learners import Learners
from rlpost.weights.transfer import WeightTransfer

PROBE_SEQUENCES, PROBE_TOKENS = 4, 64


class Workers:
    """Deals tasks out to the workers and keeps their weights at the learner's version."""

    def __init__(self, group: ActorGroup, weights: WeightsConfig, prompts: Sequence[Prompt]) -> None:
        self.group = group
        probes = [p.token_ids[-PROBE_TOKENS:] for p in prompts if len(p.token_ids) > 1]
        self.transfer = WeightTransfer(
            weights.probe_every, weights.probe_tolerance, tuple(probes[:PROBE_SEQUENCES])
        )
        self.probe_every = weights.probe_every
        self.version = -1

    def configure(self, rollout: RolloutConfig) -> None:
        self.group.call_all("configure", rollout)

    def sync(self, learners: Learners, version: int) -> dict[str, float]:
        """Bring every worker to `version`, with proofs; nothing to do when they are there.

        Returns:
            weights/* metrics, the same whether or not a run was resumed just before.
        """
        if self.version == version:
            return {}
        bundle = learners.export(version)
        metrics = self.transfer.check(bundle, self.group.call_all("load_weights", bundle))
        if self.transfer.due(version):
            sequences = self.transfer.probe_sequences
            gap = self.transfer.check_probe(
                self.group.call_all("probe", sequences), learners.probe(sequences)
            )
            metrics |= gap if version % self.probe_every == 0 else {}
        self.version = version
        return metrics

    def rollout(
        self, prompts: Sequence[Prompt], stage: StageConfig, stage_step: int, seed: int, *, greedy: bool
    ) -> list[Trajectory]:
        """The stage's number of trajectories for every prompt, prompt by prompt.

        Args:
            stage_step: counted from 1; with the stage's name, part of every trajectory's id and seed.
            seed: the run's.
            greedy: sample one more of each prompt, the last one, at temperature 0.
        """
        settings, samples = sampling_settings(stage.rollout), stage.train.samples_per_prompt
        names = [f"{k:03d}" for k in range(samples)] + (["greedy"] if greedy else [])
        tasks = [
            RolloutTask(
                f"{stage.name}-{stage_step:06d}-{prompt.id}-{name}",
                prompt,
                sample_seed(seed, stage.name, stage_step, prompt.id, k),
                replace(settings, temperature=0.0) if name == "greedy" else settings,
            )
            for prompt in prompts
            for k, name in enumerate(names)
        ]
        trajectories: list[Trajectory] = self._deal("rollout", tasks, len(names))
        self._check_versions(trajectories)
        return trajectories

    def generate(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """Plain samples, for evaluation."""
        samples: list[Sample] = self._deal("generate", list(requests), 1)
        return samples

    def _deal(self, method: str, items: list, together: int) -> list:
        """Contiguous shares, so that the samples of one prompt stay on one worker; answers in order."""
        groups = -(-len(items) // together)
        bounds = [groups * w // self.group.size * together for w in range(self.group.size + 1)]
        bounds[-1] = len(items)
        shares = [(items[start:end],) for start, end in itertools.pairwise(bounds)]
        return [answer for share in self.group.call_each(method, shares) for answer in share]

    def _check_versions(self, trajectories: Sequence[Trajectory]) -> None:
        """The learner refuses tokens of a version it did not send."""
        for trajectory in trajectories:
            found = {v for turn in trajectory.turns if turn.by_policy for v in turn.versions}
            if found - {self.version}:
                raise WeightTransferError(
                    "a sample was drawn from another policy version than the learner sent",
                    where=trajectory.id,
                    found=f"versions {sorted(found)}",
                    needed=f"version {self.version}",
                )
