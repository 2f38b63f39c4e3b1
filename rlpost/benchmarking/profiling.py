"""A frozen policy tried on prompts before any training: what `rlpost pivots` and `rlpost guide` share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpost.benchmarking.workers import VERSION, ModelWorkers, start_workers
from rlpost.config.schema import DataConfig, RunConfig, StageConfig
from rlpost.data import Prompt, PromptSet
from rlpost.errors import ScoringError
from rlpost.evaluation import evaluation_manifest
from rlpost.evaluation.manifest import claim
from rlpost.evaluation.profiles import Profile, ProfileProgress, profile_prompts
from rlpost.rollout.engine import SamplingSettings
from rlpost.scoring import Scorer
from rlpost.training.stopping import raise_if_asked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOGS = "logs"
LINE_EVERY_S = 10.0

Say = Callable[[str], None]


class Profiler:
    """The policy's workers and the stage's rewards, ready to be asked.

    Attributes:
        scorer: the stage's rewards.
        checksum: of the policy's weights.
    """

    def __init__(self, workers: ModelWorkers, scorer: Scorer, checksum: str, seed: int, say: Say) -> None:
        self.scorer, self.checksum = scorer, checksum
        self._workers, self._seed, self._say = workers, seed, say

    def profile(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingSettings,
        path: Path,
        *,
        samples: int,
        first: int = 0,
        kept_texts: int | None = None,
        what: str = "prompts",
    ) -> list[Profile]:
        """Responses to every prompt, scored; see `profile_prompts`.

        Args:
            path: profiles are appended to this file as they come; another call goes on from there.
            what: the prompts are called so on the terminal.
        """
        return profile_prompts(
            prompts,
            self._workers,
            self.scorer,
            samples=samples,
            sampling=sampling,
            seed=self._seed,
            path=path,
            first=first,
            kept_texts=kept_texts,
            report=_Display(self._say, what),
        )


@contextmanager
def start_profiler(
    config: RunConfig,
    stage: StageConfig,
    data: DataConfig,
    prompts: PromptSet,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    settings: Mapping[str, Any],
    say: Say,
) -> Iterator[Profiler]:
    """Workers and rewards as the stage's training would have them; they end with the context.

    The rewards are tried on known answers first, and `directory` is claimed for exactly this policy, these
    prompts and settings.

    Args:
        data: where the prompts come from.
        settings: what decides the profiles beside the policy and the prompts, as JSON, by section.
        say: takes lines for people.

    Raises:
        UserError: the directory holds what another policy, other prompts or other settings produced.
        RewardError: a reward function does not give gold answers 1.0.
    """
    with Scorer(stage.rewards, config.scoring) as scorer:
        scorer.check_columns(prompts[0].columns)
        if config.scoring.canary:
            for remark in scorer.canary(prompts.prompts, max_failure_share=config.scoring.max_failure_share):
                say(remark)
        logs = directory / LOGS
        with start_workers(config.model, stage.rollout, config.cluster, config.seed, logs, say) as workers:
            checksum = workers.load()
            manifest = evaluation_manifest(
                model=config.model,
                version=VERSION,
                tokenizer=tokenizer,
                data=data,
                prompts=prompts,
                rewards=stage.rewards,
                scoring=config.scoring,
                engine=f"{stage.rollout.engine} on {workers.device}",
                weights_checksum=checksum,
            )
            claim(directory, {**manifest, **settings})
            yield Profiler(workers, scorer, checksum, config.seed, say)


def sampling_record(sampling: SamplingSettings, samples: int, seed: int) -> dict[str, Any]:
    """How responses are sampled, as JSON."""
    return {
        "samples": samples,
        "seed": seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_tokens": sampling.max_tokens,
        "stop": list(sampling.stop),
    }


def refuse_failures(rewards: Sequence[float | None], max_share: float, where: Path) -> None:
    """Stop where the profiles say more about the verifier than about the policy.

    Args:
        rewards: of all responses; None where scoring failed.
        max_share: `scoring.max_failure_share`.
        where: what holds them.

    Raises:
        ScoringError: more than this share of the responses failed to score.
    """
    failed = sum(reward is None for reward in rewards)
    if failed > max_share * len(rewards):
        raise ScoringError(
            "too many responses failed to score",
            where=where,
            found=f"{failed:,} of {len(rewards):,}",
            needed=f"at most {max_share:.0%} (scoring.max_failure_share)",
            remedy="mend the verifier, remove the file, and give the same command again",
        )


class _Display:
    """A line about the progress at the start, at the end and every ten seconds between."""

    def __init__(self, say: Say, what: str) -> None:
        self._say, self._what, self._started = say, what, time.monotonic()
        self._last = -LINE_EVERY_S

    def __call__(self, progress: ProfileProgress) -> None:
        raise_if_asked()
        now = time.monotonic()
        begun, ended = self._last < 0, progress.done == progress.prompts
        if begun and progress.reused:
            self._say(f"{progress.reused:,} {self._what} were profiled before")
        if not (begun or ended or now - self._last >= LINE_EVERY_S):
            return
        self._last = now
        speed = progress.tokens / max(now - self._started, 1e-9)
        rate = f", {speed:,.0f} tokens/s" if progress.tokens else ""
        self._say(f"profiled {progress.done:,}/{progress.prompts:,} {self._what}{rate}")
