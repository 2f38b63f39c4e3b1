"""Rounds of sampling: how a step comes to the groups that it trains on.

One round is enough where nothing else is asked for. A selection that refills (DAPO's dynamic sampling,
arXiv 2503.14476) has further prompts sampled until enough groups are informative.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import torch

from rlpost.data import PromptSampler
from rlpost.data.trajectory import Prompt, Trajectory
from rlpost.estimator import Objective
from rlpost.estimator.selection.rewards import Refilling, refilling

Sample = Callable[[Sequence[Prompt]], list[Trajectory]]
"""Scored trajectories of some prompts, prompt by prompt."""

Rounds = Generator[list[Prompt], list[Trajectory], "Gathered"]
"""A step that is being sampled: yields prompts, is sent their scored trajectories, returns all of them."""


@dataclass
class Gathered:
    """What one step sampled.

    Attributes:
        prompts: drawn in all.
        trajectories: all scored ones in the order of the prompts, failed and greedy ones included.
        usable: those that may be trained on, of every prompt.
        groups: those that enter the batch, a list for each prompt of which some response could be scored.
        greedy: the reward of every prompt's greedy response, by prompt id.
        metrics: what to report of the rounds.
        members: the prompts that the batch is of, in their order: all that were drawn, but where a selection
            refills only those whose groups it took.
    """

    prompts: int = 0
    trajectories: list[Trajectory] = field(default_factory=list)
    usable: list[Trajectory] = field(default_factory=list)
    groups: list[list[Trajectory]] = field(default_factory=list)
    greedy: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    members: list[Prompt] = field(default_factory=list)

    @property
    def sampled(self) -> list[Trajectory]:
        """All but the greedy ones."""
        return [t for t in self.trajectories if not t.greedy]

    @property
    def group_of(self) -> dict[str, list[Trajectory]]:
        """The groups by their prompt's id."""
        return {group[0].prompt.id: group for group in self.groups}


def wants_greedy(objective: Objective) -> bool:
    """Whether each prompt needs a greedy response beside its samples."""
    return "greedy_reward" in objective.sequence_signals


def gather(sampler: PromptSampler, sample: Sample, objective: Objective, wanted: int) -> Gathered:
    """One step's groups, where `sample` answers at once; see `rounds`."""
    asked = rounds(sampler, objective, wanted)
    prompts = next(asked)
    while True:
        try:
            prompts = asked.send(sample(prompts))
        except StopIteration as end:
            gathered: Gathered = end.value
            return gathered


def rounds(sampler: PromptSampler, objective: Objective, wanted: int) -> Rounds:
    """One step's groups, after one round, or after as many as the objective's selection asks for.

    Args:
        sampler: gives the step's prompts; none of them twice.
        wanted: groups that the batch is to hold.

    Yields:
        the prompts of each round; their scored trajectories are to be sent back.

    Returns:
        what the step sampled.
    """
    refill = refilling(objective.selection)
    greedy = wants_greedy(objective)
    gathered = Gathered()
    found = yield from _round(sampler.next_batch(), gathered, greedy)
    if refill is None:
        gathered.groups = found
    else:
        yield from _refill(sampler, gathered, refill, found, wanted, greedy)
    if greedy:
        asked = [t for t in gathered.trajectories if t.greedy]
        failed = sum(t.reward is None or t.reward.failed for t in asked)
        gathered.metrics |= {
            "rollout/greedy_samples": float(len(asked)),
            "rollout/greedy_failures": float(failed),
        }
    return gathered


def draws_once(objective: Objective) -> bool:
    """Whether a step's prompts are all drawn in its first round."""
    return refilling(objective.selection) is None


def next_round(missing: int, informative: int, tried: int, most: int) -> int:
    """Prompts of the next round: as many as are likely needed, at the share observed so far.

    ceil(missing x tried / informative), at most `most`, and `most` while nothing was informative. Our
    choice: a full round for one missing group would mostly be thrown away.
    """
    return min(most, math.ceil(missing * tried / informative)) if informative else most


def _refill(
    sampler: PromptSampler,
    gathered: Gathered,
    refill: Refilling,
    found: list[list[Trajectory]],
    wanted: int,
    greedy: bool,
) -> Generator[list[Prompt], list[Trajectory], None]:
    """Further rounds, until `wanted` groups are informative, the rounds or the prompts run out."""
    informative = _informative(found, refill)
    made = 1
    while len(informative) < wanted and made < refill.max_rounds:
        count = next_round(wanted - len(informative), len(informative), gathered.prompts, wanted)
        prompts = sampler.more(count)
        if not prompts:
            break
        found = yield from _round(prompts, gathered, greedy)
        informative += _informative(found, refill)
        made += 1
    gathered.groups = informative[:wanted]
    gathered.members = [prompt for prompt in gathered.members if prompt.id in gathered.group_of]
    gathered.metrics |= {
        "rollout/rounds": float(made),
        "signal/uninformative_groups": float(gathered.prompts - len(informative)),
        "signal/surplus_groups": float(len(informative) - len(gathered.groups)),
        "signal/missing_groups": float(wanted - len(gathered.groups)),
    }


def _round(
    prompts: list[Prompt], gathered: Gathered, greedy: bool
) -> Generator[list[Prompt], list[Trajectory], list[list[Trajectory]]]:
    """Have one round sampled, note it down, and return the usable trajectories of each prompt with some."""
    trajectories = yield prompts
    gathered.prompts += len(prompts)
    gathered.members += prompts
    gathered.trajectories += trajectories
    groups: dict[str, list[Trajectory]] = {prompt.id: [] for prompt in prompts}
    for trajectory in trajectories:
        score = None if trajectory.reward is None else trajectory.reward.score
        if score is not None and trajectory.greedy:
            gathered.greedy[trajectory.prompt.id] = score
        elif score is not None:
            groups[trajectory.prompt.id].append(trajectory)
    kept = [group for key, group in groups.items() if group and (not greedy or key in gathered.greedy)]
    gathered.usable += [t for group in kept for t in group]
    return kept


def _informative(groups: Sequence[list[Trajectory]], refill: Refilling) -> list[list[Trajectory]]:
    """The groups in which something can be compared, judged on task rewards as they were scored."""
    owner = [index for index, group in enumerate(groups) for _ in group]
    rewards = [t.reward.score for group in groups for t in group if t.reward is not None]
    keep_S = refill.informative(
        torch.tensor(owner, dtype=torch.int64), torch.tensor(rewards, dtype=torch.float64)
    )
    keep = {index for index, kept in zip(owner, keep_S.tolist(), strict=True) if kept}
    return [group for index, group in enumerate(groups) if index in keep and len(group) > 1]
