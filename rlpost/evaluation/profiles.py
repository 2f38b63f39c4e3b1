"""Profiles: what a policy's responses to each prompt score, how often and how differently."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rlpost.data.trajectory import Prompt
from rlpost.errors import DataError
from rlpost.evaluation.evaluate import sample_seed
from rlpost.evaluation.sample_source import SampleSource
from rlpost.evaluation.stream import Group, Problem, ProblemStream
from rlpost.rollout.engine import Sample, SamplingSettings

if TYPE_CHECKING:
    from rlpost.scoring import Scorer

Fate = Literal["pivot", "easy", "always", "never", "failed"]
"""What a profile makes of its prompt: a pivot; solved too often for one; equal rewards, high or low; or too
few rewards to tell."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The responses of one policy to one prompt.

    Attributes:
        id: the prompt's.
        rewards: of each response; None where scoring failed.
        texts: the responses, or the first few of them.
        cut: responses that hit the token limit.
        tokens: of all responses together.
    """

    id: str
    rewards: tuple[float | None, ...]
    texts: tuple[str, ...]
    cut: int
    tokens: int

    @property
    def scores(self) -> tuple[float, ...]:
        """The rewards that there are."""
        return tuple(reward for reward in self.rewards if reward is not None)

    @property
    def mean(self) -> float:
        """Mean reward; NaN without any."""
        return math.fsum(self.scores) / len(self.scores) if self.scores else math.nan

    @property
    def variance(self) -> float:
        """Mean squared deviation of the rewards, exactly 0 where all are equal; NaN without any."""
        if not self.scores or min(self.scores) == max(self.scores):
            return 0.0 if self.scores else math.nan
        return math.fsum((score - self.mean) ** 2 for score in self.scores) / len(self.scores)

    def fate(self, threshold: float, min_variance: float) -> Fate:
        """Whether the prompt is a pivot: var > `min_variance` and mean < `threshold` (arXiv 2603.21383)."""
        if len(self.scores) < 2:
            return "failed"
        if not self.variance > min_variance:
            return "never" if self.mean < threshold else "always"
        return "pivot" if self.mean < threshold else "easy"


@dataclass(slots=True)
class ProfileProgress:
    """How far profiling is.

    Attributes:
        prompts: all of them.
        done: those with a profile.
        reused: those that an earlier call did.
        tokens: sampled by this call.
    """

    prompts: int
    done: int = 0
    reused: int = 0
    tokens: int = 0


def profile_prompts(
    prompts: Sequence[Prompt],
    source: SampleSource,
    scorer: Scorer,
    *,
    samples: int,
    sampling: SamplingSettings,
    seed: int,
    path: Path | None = None,
    first: int = 0,
    kept_texts: int | None = None,
    report: Callable[[ProfileProgress], None] = lambda _: None,
) -> list[Profile]:
    """Sample and score responses to every prompt; one profile each, in their order.

    Args:
        source: of responses; its `poll` brings none that others asked for.
        samples: responses to each prompt.
        seed: with the prompt's id and the sample's index, decides each response.
        path: a JSONL file that profiles are appended to as they come; those in it are not made again.
        first: the index of the first sample: those before it were drawn by another call.
        kept_texts: responses kept of each profile; None keeps all.
        report: is told how far it is, at the start and about every second.

    Raises:
        DataError: the file holds something else than profiles of these prompts.
    """
    done = {} if path is None else _restore(path, prompts)
    progress = ProfileProgress(len(prompts), len(done), len(done))
    report(progress)
    problems = [
        Problem(index, prompt, [sample_seed(seed, prompt.id, k) for k in range(first, first + samples)])
        for index, prompt in enumerate(prompts)
        if prompt.id not in done
    ]
    stream = ProblemStream(source, scorer, sampling, None, _accept)
    for groups in stream.run(problems):
        fresh = [_profile(group, kept_texts) for group in groups]
        if path is not None:
            _append(path, fresh)
        done |= {profile.id: profile for profile in fresh}
        progress.done = len(done)
        progress.tokens += sum(profile.tokens for profile in fresh)
        report(progress)
    return [done[prompt.id] for prompt in prompts]


def _accept(sample: Sample) -> None:
    """Every response counts, whatever version of the weights it comes from: the source answers for that."""


def _profile(group: Group, kept_texts: int | None) -> Profile:
    return Profile(
        id=group[0].prompt_id,
        rewards=tuple(generation.reward.score for generation in group),
        texts=tuple(generation.text for generation in group[:kept_texts]),
        cut=sum(generation.finish_reason == "length" for generation in group),
        tokens=sum(generation.tokens or 0 for generation in group),
    )


def _append(path: Path, profiles: Sequence[Profile]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(profile), allow_nan=False) + "\n" for profile in profiles)
        file.flush()
        os.fsync(file.fileno())


def _restore(path: Path, prompts: Sequence[Prompt]) -> dict[str, Profile]:
    """The profiles in the file; what was being written when an earlier call ended is taken out of it."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    known = {prompt.id for prompt in prompts}
    profiles = {}
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            record = json.loads(line)
            profile = Profile(
                **{**record, "rewards": tuple(record["rewards"]), "texts": tuple(record["texts"])}
            )
        except (ValueError, TypeError, KeyError) as error:
            raise _foreign(path, number, f"{type(error).__name__}: {error}") from error
        if profile.id not in known:
            raise _foreign(path, number, f"the prompt {profile.id!r}")
        profiles[profile.id] = profile
    return profiles


def _foreign(path: Path, line: int, found: str) -> DataError:
    return DataError(
        "the file does not hold profiles of these prompts",
        where=f"{path}, line {line}",
        found=found,
        remedy="remove the file, or choose another output directory",
    )
