"""From trajectories to what the learner reads: model inputs and the core's TokenBatch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass

import torch
from torch import Tensor

from rlpost.data.trajectory import Prompt, Trajectory, Turn
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


@dataclass(frozen=True, slots=True)
class BatchRow:
    """What one sequence of a batch is made from.

    Attributes:
        prompt: its id is the row's group.
        turns: what follows the prompt.
        reward: a finite number.
        truncated: a limit ended it.
        demonstration: the policy did not sample it.
        trajectory: what was sampled; None for a demonstration.
    """

    prompt: Prompt
    turns: tuple[Turn, ...]
    reward: float
    truncated: bool = False
    demonstration: bool = False
    trajectory: Trajectory | None = None


def sampled_row(trajectory: Trajectory) -> BatchRow:
    """A scored trajectory as a row.

    Raises:
        ValueError: it has no score; failed ones are dropped, and counted, before this.
    """
    if trajectory.reward is None or trajectory.reward.score is None:
        raise ValueError(f"trajectory {trajectory.id!r} has no score")
    score = trajectory.reward.score
    return BatchRow(trajectory.prompt, trajectory.turns, score, trajectory.truncated, trajectory=trajectory)


def demonstrated_rows(prompt: Prompt, reward: float = 1.0) -> list[BatchRow]:
    """A prompt's demonstration as a row; none without one. A pair is two rows, with rewards 1 and 0.

    Args:
        reward: what a demonstration is worth that is not one of a pair.
    """
    if prompt.demonstration is None:
        return []
    if prompt.rejected is None:
        return [BatchRow(prompt, prompt.demonstration, reward, demonstration=True)]
    return [
        BatchRow(prompt, prompt.demonstration, 1.0, demonstration=True),
        BatchRow(prompt, prompt.rejected, 0.0, demonstration=True),
    ]


def collate(trajectories: Sequence[Trajectory]) -> tuple[ModelInputs, TokenBatch]:
    """Scored trajectories, grouped by prompt id, as one ragged batch; see `collate_rows`."""
    return collate_rows([sampled_row(t) for t in trajectories])


def collate_demonstrations(prompts: Sequence[Prompt], reward: float = 1.0) -> tuple[ModelInputs, TokenBatch]:
    """Demonstrated responses as one ragged batch; every prompt must hold a demonstration.

    Args:
        reward: what a demonstration is worth.
    """
    without = next((prompt for prompt in prompts if prompt.demonstration is None), None)
    if without is not None:
        raise ValueError(f"prompt {without.id!r} has no demonstration")
    rows = [row for prompt in prompts for row in demonstrated_rows(prompt, reward)]
    return collate_rows(rows, sampled=False)


def collate_rows(rows: Sequence[BatchRow], *, sampled: bool = True) -> tuple[ModelInputs, TokenBatch]:
    """What was sampled and what was demonstrated, as one ragged batch in the given order.

    `turn_N` is the index of a token's turn in its row, observations counted; they are not in `mask_N`, nor is
    what the assistant did not say in a demonstrated dialogue.

    The signal "behaviour_logprob" has the sampler's log-probs, NaN where nothing was sampled, as on all
    tokens of a demonstration. Where some turn before the last has a reward of its own there is the signal
    "token_reward", float32: each turn's reward on its last token. `reward_S` is the whole reward all the
    same, those included.

    Args:
        sampled: the rows are of a step that sampled, though perhaps none of its samples is left; otherwise
            there is no "behaviour_logprob".
    """
    dialogues = [row.turns for row in rows]
    inputs, mask_N, turn_N = _laid_out(rows)
    signals = {}
    if sampled:
        signals["behaviour_logprob"] = torch.tensor(
            [logprob for turns in dialogues for turn in turns for logprob in turn.logprobs],
            dtype=torch.float32,
        )
    if any(turn.reward for turns in dialogues for turn in turns[:-1]):
        signals["token_reward"] = _turn_rewards(dialogues)
    group_of = {key: g for g, key in enumerate(dict.fromkeys(row.prompt.id for row in rows))}
    batch = TokenBatch(
        sequence_N=_owners(inputs.response_ids),
        mask_N=mask_N,
        turn_N=turn_N,
        group_S=torch.tensor([group_of[row.prompt.id] for row in rows], dtype=torch.int64),
        reward_S=torch.tensor([row.reward for row in rows], dtype=torch.float64),
        truncated_S=torch.tensor([row.truncated for row in rows], dtype=torch.bool),
        demonstration_S=torch.tensor([row.demonstration for row in rows], dtype=torch.bool),
        signals=signals,
    )
    return inputs, batch


def reward_parts(rows: Sequence[BatchRow], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The sequence signals "reward_part/NAME", float64 [S]: weight x score of each reward function.

    It is 0 where the function does not apply, and NaN for demonstrations, which no function has scored.
    They add up to the rewards of the batch that `collate_rows` makes of the same rows.

    Args:
        weights: by the reward function's name.
    """
    return {
        f"reward_part/{name}": torch.tensor([weight * _part(row, name) for row in rows], dtype=torch.float64)
        for name, weight in weights.items()
    }


def _laid_out(rows: Sequence[BatchRow]) -> tuple[ModelInputs, Tensor, Tensor]:
    """The ids of prompts and turns; and of each token (N) whether it is to be learnt, and its turn."""
    responses = [
        torch.tensor([i for turn in row.turns for i in turn.token_ids], dtype=torch.int64) for row in rows
    ]
    inputs = ModelInputs(
        tuple(torch.tensor(row.prompt.token_ids, dtype=torch.int64) for row in rows), tuple(responses)
    )
    turns = [turn for row in rows for turn in row.turns]
    owner_N = _owners([turn.token_ids for turn in turns])
    mask_N = torch.tensor([turn.by_policy for turn in turns], dtype=torch.bool)[owner_N]
    index = [k for row in rows for k in range(len(row.turns))]
    return inputs, mask_N, torch.tensor(index, dtype=torch.int64)[owner_N]


def _turn_rewards(dialogues: Sequence[Sequence[Turn]]) -> Tensor:
    """Each turn's reward on its last token, float32 [N]; that of a turn without tokens is left to the end."""
    reward_N: list[float] = []
    for turn in (turn for turns in dialogues for turn in turns):
        reward_N += [0.0] * len(turn.token_ids)
        if turn.token_ids:
            reward_N[-1] = turn.reward
    return torch.tensor(reward_N, dtype=torch.float32)


def _owners(ids: Sequence[Sized]) -> Tensor:
    lengths = torch.tensor([len(i) for i in ids], dtype=torch.int64)
    return torch.repeat_interleave(torch.arange(len(ids)), lengths)


def _part(row: BatchRow, name: str) -> float:
    if row.trajectory is None:
        return math.nan
    assert row.trajectory.reward is not None
    return row.trajectory.reward.parts.get(name, 0.0)
