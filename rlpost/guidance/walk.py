"""Which problems are hard, and with how much of its solution each one is first solved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rlpost.benchmarking.profiling import Profiler
from rlpost.config.schema import GuidanceConfig
from rlpost.data import Prompt
from rlpost.evaluation.profiles import Profile
from rlpost.guidance.guided import GUIDED, Guide, Problem
from rlpost.guidance.prefixes import Prefix, holds_answer, prefixes
from rlpost.rollout.engine import SamplingSettings
from rlpost.scoring import ScoreItem, Scorer

Fate = Literal["hard", "sometimes", "always", "failed"]
"""What a problem is to the policy: solved by none, some or all of its responses, or too few could be
scored."""

Refused = Literal["answer", "verifier", "unscored", "too_long"]
"""Why a beginning is not used: it names the gold answer; the rewards give it alone a success; they failed on
it; or the guided prompt is too long."""

FIRST, REST = "unguided-first.jsonl", "unguided-rest.jsonl"
KEPT_TEXTS = 2


@dataclass(frozen=True, slots=True)
class Beginning:
    """A beginning of a problem's solution.

    Attributes:
        point: its place among the problem's beginnings, from 1.
        refused: why it is not used; None for one that is.
    """

    point: int
    prefix: Prefix
    refused: Refused | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The guidance of one hard problem.

    Attributes:
        beginnings: all of them, short ones first.
        tried: the policy's responses with each beginning that was tried, by its point.
        chosen: the beginning that is used; None where none is.
        helped: whether some response was right with it.
    """

    problem: Problem
    beginnings: tuple[Beginning, ...]
    tried: Mapping[int, Profile]
    chosen: Beginning | None
    helped: bool

    @property
    def left_out(self) -> str | None:
        """Why the problem has no guidance; None when it has."""
        if self.chosen is not None:
            return None
        if self.tried:
            return "never"
        reasons = Counter(beginning.refused for beginning in self.beginnings)
        return str(reasons.most_common(1)[0][0]) if reasons else "short"


def ask_unguided(
    profiler: Profiler,
    problems: Sequence[Problem],
    settings: GuidanceConfig,
    sampling: SamplingSettings,
    folder: Path,
) -> dict[str, Profile]:
    """The policy's responses to every problem, by id: a few, and all where none of these was right."""
    first, prompts = min(settings.first, settings.samples), [problem.prompt for problem in problems]
    found = profiler.profile(
        prompts, sampling, folder / FIRST, samples=first, kept_texts=KEPT_TEXTS, what="problems"
    )
    profiles = {profile.id: profile for profile in found}
    unsolved = [prompt for prompt in prompts if not passes(profiles[prompt.id], settings.success)]
    if first < settings.samples and unsolved:
        rest = profiler.profile(
            unsolved,
            sampling,
            folder / REST,
            samples=settings.samples - first,
            first=first,
            kept_texts=0,
            what="problems without a right response",
        )
        profiles |= {profile.id: _joined(profiles[profile.id], profile) for profile in rest}
    return profiles


def passes(profile: Profile, success: float) -> int:
    """How many responses solve the problem."""
    return sum(score >= success for score in profile.scores)


def fate(profile: Profile, success: float, max_failure_share: float) -> Fate:
    """What the problem is to the policy.

    Args:
        max_failure_share: a problem of which more responses could not be scored is not called hard.
    """
    right, samples = passes(profile, success), len(profile.rewards)
    if right:
        return "always" if right == samples else "sometimes"
    return "failed" if samples - len(profile.scores) > max_failure_share * samples else "hard"


def beginnings_of(
    problems: Sequence[Problem], guide: Guide, scorer: Scorer, max_tokens: int
) -> dict[str, tuple[Beginning, ...]]:
    """The grid over each problem's solution, with what is refused and why, by the problem's id."""
    settings = guide.settings
    grids = [
        [
            Beginning(point, prefix)
            for point, prefix in enumerate(
                prefixes(problem.solution, guide.encoder.tokenizer, settings.parts, settings.boundary), 1
            )
        ]
        for problem in problems
    ]
    items = [
        ScoreItem(problem.prompt.text, beginning.prefix.text, problem.prompt.columns)
        for problem, grid in zip(problems, grids, strict=True)
        for beginning in grid
    ]
    scores = iter([result.score for result in scorer.score_items(items)] if items else [])
    return {
        problem.id: tuple(
            replace(beginning, refused=_refused(guide, problem, beginning, next(scores), max_tokens))
            for beginning in grid
        )
        for problem, grid in zip(problems, grids, strict=True)
    }


def walk(
    profiler: Profiler,
    problems: Sequence[Problem],
    beginnings: Mapping[str, tuple[Beginning, ...]],
    guide: Guide,
    sampling: SamplingSettings,
    folder: Path,
    say: Callable[[str], None],
) -> list[Choice]:
    """Try the beginnings from short to long until one helps, all problems side by side; one choice each."""
    settings = guide.settings
    tried: dict[str, dict[int, Profile]] = {problem.id: {} for problem in problems}
    helped: dict[str, Beginning] = {}
    for point in range(1, settings.parts + 1):
        asked: dict[str, tuple[Problem, Beginning]] = {}
        prompts: list[Prompt] = []
        for problem in problems:
            beginning = next((b for b in beginnings[problem.id] if b.point == point), None)
            if problem.id not in helped and beginning is not None and beginning.refused is None:
                id = f"{problem.id}{GUIDED}/{point}"
                asked[id] = (problem, beginning)
                prompts.append(guide.prompt(problem, beginning.prefix.text, id))
        if not prompts:
            continue
        say(f"{len(prompts):,} hard problems are tried with beginning {point} of {settings.parts}")
        path, samples = folder / f"guided-{point}.jsonl", settings.samples_per_prefix
        for profile in profiler.profile(prompts, sampling, path, samples=samples, what="guided problems"):
            problem, beginning = asked[profile.id]
            tried[problem.id][point] = profile
            if passes(profile, settings.success):
                helped[problem.id] = beginning
    return [_choice(p, beginnings[p.id], tried[p.id], helped.get(p.id), settings) for p in problems]


def _choice(
    problem: Problem,
    beginnings: tuple[Beginning, ...],
    tried: Mapping[int, Profile],
    helped: Beginning | None,
    settings: GuidanceConfig,
) -> Choice:
    usable = [beginning for beginning in beginnings if beginning.refused is None]
    chosen = helped
    if chosen is None and usable and settings.fallback == "shortest":
        chosen = usable[0]
    return Choice(problem, beginnings, tried, chosen, helped is not None)


def _refused(
    guide: Guide, problem: Problem, beginning: Beginning, score: float | None, max_tokens: int
) -> Refused | None:
    settings, text = guide.settings, beginning.prefix.text
    if score is None:
        return "unscored"
    if score >= settings.success:
        return "verifier"
    answer = problem.prompt.columns.get("answer")
    asked = problem.asked if isinstance(problem.asked, str) else _said(problem.asked)
    if settings.leaks == "text" and holds_answer(text, answer, asked):
        return "answer"
    return "too_long" if len(guide.prompt(problem, text, problem.id).token_ids) > max_tokens else None


def _said(messages: Sequence[Mapping[str, object]]) -> str:
    return "\n".join(str(message.get("content") or "") for message in messages)


def _joined(first: Profile, rest: Profile) -> Profile:
    return replace(
        first,
        rewards=first.rewards + rest.rewards,
        cut=first.cut + rest.cut,
        tokens=first.tokens + rest.tokens,
    )
