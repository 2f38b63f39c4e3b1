"""The ragged batch: its shape rules, taking rows, and finding their tokens."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from estimator_batches import batch_of, random_batch
from torch import Tensor

from rlpost.estimator import TokenBatch, token_index


@pytest.mark.parametrize("name", ["mask_N", "turn_N", "reward_S", "truncated_S", "demonstration_S"])
@pytest.mark.parametrize("change", ["shorter", "two axes"])
def test_a_tensor_of_another_shape_is_named_with_its_shape(name: str, change: str) -> None:
    batch = batch_of([2, 3, 1])
    tensor: Tensor = getattr(batch, name)
    wrong = tensor[:-1] if change == "shorter" else tensor[:, None]
    with pytest.raises(ValueError) as caught:
        replace(batch, **{name: wrong})
    shape = tuple(wrong.shape)
    assert str(caught.value) == f"{name} has shape {shape}, needed ({len(tensor)},)"


@pytest.mark.parametrize("name", ["sequence_N", "group_S"])
def test_an_index_with_two_axes_is_refused(name: str) -> None:
    batch = batch_of([2, 3, 1])
    with pytest.raises(ValueError, match=f"{name} has shape"):
        replace(batch, **{name: getattr(batch, name)[:, None]})


def test_a_signal_of_another_length_is_named() -> None:
    with pytest.raises(ValueError, match=r"signals\['old_logprob'\] has shape \(2,\), needed \(3,\)"):
        batch_of([3], old_logprob=[-1.0, -1.0])


@pytest.mark.parametrize("owners", [[0, 1, 0], [0, 0, 2], [-1, 0, 1]])
def test_owners_must_ascend_and_be_sequences_of_the_batch(owners: list[int]) -> None:
    with pytest.raises(ValueError, match="sequence_N must ascend from 0 or above and stay below the 2"):
        replace(batch_of([2, 1]), sequence_N=torch.tensor(owners))


def test_sequences_may_own_no_token() -> None:
    batch = batch_of([0, 2, 0, 0, 1, 0])
    assert (batch.N, batch.S) == (3, 6)
    assert batch.length_S.tolist() == [0, 2, 0, 0, 1, 0]


def test_a_batch_may_be_empty() -> None:
    batch = batch_of([])
    assert (batch.N, batch.S, batch.length_S.tolist()) == (0, 0, [])
    assert batch.rows(torch.zeros(0, dtype=torch.int64)).S == 0


def test_a_missing_signal_is_a_key_error_that_lists_the_present_ones() -> None:
    with pytest.raises(KeyError, match=r"no signal 'x', only \['a', 'b'\]"):
        batch_of([1], b=[0.0], a=[0.0]).signal("x")


def test_added_signals_join_the_present_ones_and_replace_their_namesakes() -> None:
    batch = batch_of([2], a=[1.0, 2.0], b=[3.0, 4.0])
    more = batch.with_signals(b=torch.tensor([5.0, 6.0]), c=torch.tensor([7.0, 8.0]))
    assert {k: v.tolist() for k, v in more.signals.items()} == {"a": [1, 2], "b": [5, 6], "c": [7, 8]}
    assert sorted(batch.signals) == ["a", "b"]


def slow_rows(batch: TokenBatch, index: list[int]) -> tuple[list[int], list[int]]:
    positions, owners = [], []
    for new, old in enumerate(index):
        for i, owner in enumerate(batch.sequence_N.tolist()):
            if owner == old:
                positions.append(i)
                owners.append(new)
    return positions, owners


@pytest.mark.parametrize("seed", range(10))
def test_token_index_finds_the_tokens_of_the_rows_in_their_order(seed: int) -> None:
    rng = random.Random(seed)
    batch, _ = random_batch(seed)
    for index in [
        list(range(batch.S)),
        rng.sample(range(batch.S), 5),
        [rng.randrange(batch.S) for _ in range(20)],
        [],
    ]:
        positions, owners = slow_rows(batch, index)
        index_N, sequence_N = token_index(batch.sequence_N, batch.S, torch.tensor(index, dtype=torch.int64))
        assert index_N.tolist() == positions
        assert sequence_N.tolist() == owners
        assert index_N.dtype == sequence_N.dtype == torch.int64


def test_rows_take_every_field_along() -> None:
    batch = replace(
        batch_of(
            [2, 0, 3],
            mask=[1, 0, 1, 1, 0],
            groups=[4, 5, 6],
            rewards=[0.1, 0.2, 0.3],
            demonstrations=[2],
            old_logprob=[-0.1, -0.2, -0.3, -0.4, -0.5],
            on_policy=True,
        ),
        turn_N=torch.tensor([0, 1, 0, 1, 2]),
        truncated_S=torch.tensor([True, False, True]),
    )
    part = batch.rows(torch.tensor([2, 1]))
    assert part.sequence_N.tolist() == [0, 0, 0]
    assert part.mask_N.tolist() == [True, True, False]
    assert part.turn_N.tolist() == [0, 1, 2]
    assert part.group_S.tolist() == [6, 5]
    assert part.reward_S.tolist() == [0.3, 0.2]
    assert part.truncated_S.tolist() == [True, False]
    assert part.demonstration_S.tolist() == [True, False]
    assert part.signals["old_logprob"].tolist() == [-0.3, -0.4, -0.5]
    assert part.on_policy is True
