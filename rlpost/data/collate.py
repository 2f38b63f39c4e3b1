"""From trajectories to what the learner reads: model inputs and the core's TokenBatch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlpost.data.trajectory import Prompt, Trajectory
from rlpost.estimator import TokenBatch


@dataclass(frozen=True)
class ModelInputs:
    """The token ids of S sequences; row s lines up with row s of the TokenBatch.

    Attributes:
        prompt_ids: S int64 tensors.
        response_ids: S int64 tensors; concatenated, they are the N axis of the TokenBatch.
    """

    prompt_ids: tuple[Tensor, ...]
    response_ids: tuple[Tensor, ...]

    @property
    def lengths(self) -> list[int]:
        """Prompt plus response tokens of each sequence."""
        return [len(p) + len(r) for p, r in zip(self.prompt_ids, self.response_ids, strict=True)]

    def rows(self, index: Sequence[int]) -> ModelInputs:
        return ModelInputs(
            tuple(self.prompt_ids[i] for i in index), tuple(self.response_ids[i] for i in index)
        )


def collate(trajectories: Sequence[Trajectory]) -> tuple[ModelInputs, TokenBatch]:
    """Scored trajectories, grouped by prompt id, as one ragged batch.

    Every trajectory must carry a reward that was scored (failed ones are dropped, and
    counted, before this). The signal "behaviour_logprob" holds the sampler's log-probs.
    """
    ids = [torch.tensor(t.token_ids, dtype=torch.int64) for t in trajectories]
    inputs = ModelInputs(
        tuple(torch.tensor(t.prompt.token_ids, dtype=torch.int64) for t in trajectories), tuple(ids)
    )
    turns = [turn for t in trajectories for turn in t.turns]
    owner_N = torch.arange(len(turns)).repeat_interleave(
        torch.tensor([len(t.token_ids) for t in turns], dtype=torch.int64)
    )
    group_of = {key: g for g, key in enumerate(dict.fromkeys(t.prompt.id for t in trajectories))}
    batch = TokenBatch(
        sequence_N=_owners(ids),
        mask_N=torch.tensor([turn.by_policy for turn in turns], dtype=torch.bool)[owner_N],
        turn_N=torch.tensor([k for t in trajectories for k in range(len(t.turns))], dtype=torch.int64)[
            owner_N
        ],
        group_S=torch.tensor([group_of[t.prompt.id] for t in trajectories], dtype=torch.int64),
        reward_S=torch.tensor([_score(t) for t in trajectories], dtype=torch.float64),
        truncated_S=torch.tensor([t.truncated for t in trajectories], dtype=torch.bool),
        demonstration_S=torch.zeros(len(trajectories), dtype=torch.bool),
        signals={
            "behaviour_logprob": torch.cat(
                [torch.tensor(turn.logprobs, dtype=torch.float32) for turn in turns] or [torch.zeros(0)]
            )
        },
    )
    return inputs, batch


def reward_parts(trajectories: Sequence[Trajectory], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The sequence signals "reward_part/NAME", float64 [S]: weight x score of each reward function.

    It is 0 where the function does not apply.
    They add up to the rewards of the batch that `collate` makes of the same trajectories.

    Args:
        weights: by the reward function's name.
    """
    return {
        f"reward_part/{name}": torch.tensor(
            [weight * _part(t, name) for t in trajectories], dtype=torch.float64
        )
        for name, weight in weights.items()
    }


def collate_demonstrations(prompts: Sequence[Prompt]) -> tuple[ModelInputs, TokenBatch]:
    """Demonstrated responses as one ragged batch; every prompt must hold a demonstration."""
    ids = []
    for prompt in prompts:
        if prompt.demonstration is None:
            raise ValueError(f"prompt {prompt.id!r} has no demonstration")
        ids.append(torch.tensor(prompt.demonstration, dtype=torch.int64))
    S, N = len(ids), sum(len(i) for i in ids)
    inputs = ModelInputs(tuple(torch.tensor(p.token_ids, dtype=torch.int64) for p in prompts), tuple(ids))
    batch = TokenBatch(
        sequence_N=_owners(ids),
        mask_N=torch.ones(N, dtype=torch.bool),
        turn_N=torch.zeros(N, dtype=torch.int64),
        group_S=torch.arange(S),
        reward_S=torch.zeros(S, dtype=torch.float64),
        truncated_S=torch.zeros(S, dtype=torch.bool),
        demonstration_S=torch.ones(S, dtype=torch.bool),
    )
    return inputs, batch


def _owners(ids: Sequence[Tensor]) -> Tensor:
    lengths = torch.tensor([len(i) for i in ids], dtype=torch.int64)
    return torch.repeat_interleave(torch.arange(len(ids)), lengths)


def _part(trajectory: Trajectory, name: str) -> float:
    if trajectory.reward is None:
        raise ValueError(f"trajectory {trajectory.id!r} has no reward")
    return trajectory.reward.parts.get(name, 0.0)


def _score(trajectory: Trajectory) -> float:
    if trajectory.reward is None or trajectory.reward.score is None:
        raise ValueError(f"trajectory {trajectory.id!r} has no score")
    return trajectory.reward.score
