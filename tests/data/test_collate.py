"""Trajectories as one ragged batch: literal tensors."""

import math
from dataclasses import replace

import pytest
import torch

from rlpost.data import Prompt, RewardResult, Trajectory, Turn, collate, collate_demonstrations, unsampled
from rlpost.data.collate import collate_rows, demonstrated_rows, reward_parts, sampled_row
from rlpost.estimator import build_objective

ONE = Prompt("one", "", (11, 12))
TWO = Prompt("two", "", (13,))


def sampled(*token_ids, logprob=-0.5):
    count = len(token_ids)
    return Turn(token_ids, "", True, (logprob,) * count, (0,) * count)


def observed(*token_ids):
    return Turn(token_ids, "", False, (math.nan,) * len(token_ids), (-1,) * len(token_ids))


def demonstrated(*token_ids):
    return unsampled(token_ids, "", by_policy=True)


def trajectory(prompt, turns, reward=1.0, finish="eos"):
    result = None if reward is None else RewardResult(reward)
    return Trajectory(f"{prompt.id}", prompt, tuple(turns), finish, seed=0, reward=result)


def test_turns_observations_groups_and_rewards_land_where_they_belong():
    inputs, batch = collate(
        [
            trajectory(TWO, [sampled(1, 2, logprob=-0.25), observed(3), sampled(4)], reward=0.5),
            trajectory(ONE, [sampled(5)], reward=-1.0, finish="length"),
            trajectory(TWO, [sampled(6, 7)], reward=0.0),
        ]
    )
    assert [p.tolist() for p in inputs.prompt_ids] == [[13], [11, 12], [13]]
    assert [r.tolist() for r in inputs.response_ids] == [[1, 2, 3, 4], [5], [6, 7]]
    assert inputs.lengths == [5, 3, 3]
    assert batch.sequence_N.tolist() == [0, 0, 0, 0, 1, 2, 2]
    assert batch.mask_N.tolist() == [True, True, False, True, True, True, True]
    assert batch.turn_N.tolist() == [0, 0, 1, 2, 0, 0, 0]
    assert batch.group_S.tolist() == [0, 1, 0]
    assert batch.reward_S.tolist() == [0.5, -1.0, 0.0]
    assert batch.truncated_S.tolist() == [False, True, False]
    assert batch.demonstration_S.tolist() == [False, False, False]
    logprob_N = batch.signal("behaviour_logprob")
    assert logprob_N[[0, 1, 3, 4, 5, 6]].tolist() == [-0.25, -0.25, -0.5, -0.5, -0.5, -0.5]
    assert math.isnan(logprob_N[2].item())


def rewarded(turn, reward):
    return replace(turn, reward=reward)


def test_rewards_of_turns_stand_on_their_last_tokens_beside_the_whole_reward():
    first = [rewarded(sampled(1, 2), 0.25), observed(3), rewarded(sampled(4, 5, 6), -0.5), observed(7)]
    last = [rewarded(sampled(8), 1.0)]
    empty = [rewarded(sampled(), 4.0), observed(9), rewarded(sampled(10), 0.5)]
    _, batch = collate([trajectory(ONE, [*first, *last], reward=2.75), trajectory(TWO, empty, reward=4.5)])
    assert batch.signal("token_reward").tolist() == [0, 0.25, 0, 0, 0, -0.5, 0, 1.0, 0, 0.5]
    assert batch.signal("token_reward").dtype == torch.float32
    assert batch.reward_S.tolist() == [2.75, 4.5]
    assert batch.mask_N.tolist() == [True, True, False, True, True, True, False, True, False, True]
    assert batch.turn_N.tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 1, 2]


def test_rewards_at_the_end_alone_need_no_signal():
    turns = [sampled(1), observed(2), rewarded(sampled(3), 1.0)]
    _, batch = collate([trajectory(ONE, turns), trajectory(TWO, [rewarded(sampled(4), 0.5)])])
    assert "token_reward" not in batch.signals


def test_of_a_demonstrated_dialogue_the_assistants_turns_alone_are_trained():
    turns = (demonstrated(5, 2), unsampled((6, 7), "", by_policy=False), demonstrated(8, 2))
    inputs, batch = collate_demonstrations(
        [Prompt("a", "", (1,), demonstration=turns), Prompt("b", "", (3,), demonstration=turns[2:])]
    )
    assert [r.tolist() for r in inputs.response_ids] == [[5, 2, 6, 7, 8, 2], [8, 2]]
    assert batch.mask_N.tolist() == [True, True, False, False, True, True, True, True]
    assert batch.turn_N.tolist() == [0, 0, 1, 1, 2, 2, 0, 0]
    sft = build_objective({"base": "sft"}, max_response_tokens=8)
    weight_N = sft.coefficients(torch.zeros(8), sft.prepare(batch))
    assert weight_N.nonzero().flatten().tolist() == [0, 1, 4, 5, 6, 7]
    assert torch.allclose(weight_N[batch.mask_N], torch.full((6,), -1 / 6, dtype=weight_N.dtype))


def test_rows_of_inputs_and_batch_stay_lined_up():
    inputs, batch = collate([trajectory(ONE, [sampled(*range(n))]) for n in (1, 3, 2)])
    picked, rows = inputs.rows([2, 0]), batch.rows(torch.tensor([2, 0]))
    assert [len(r) for r in picked.response_ids] == rows.length_S.tolist() == [2, 1]
    assert [p.tolist() for p in picked.prompt_ids] == [[11, 12], [11, 12]]


def test_a_trajectory_may_hold_no_token():
    inputs, batch = collate([trajectory(ONE, [sampled()]), trajectory(TWO, [sampled(9)])])
    assert inputs.lengths == [2, 2]
    assert batch.sequence_N.tolist() == [1]
    assert batch.length_S.tolist() == [0, 1]


def test_no_trajectory_gives_an_empty_batch():
    inputs, batch = collate([])
    assert inputs.lengths == [] and batch.N == 0 and batch.S == 0


@pytest.mark.parametrize("reward", [None, RewardResult(None, "timeout")])
def test_a_trajectory_without_a_score_is_refused(reward):
    unscored = Trajectory("lost", ONE, (sampled(1),), "eos", seed=0, reward=reward)
    with pytest.raises(ValueError, match="trajectory 'lost' has no score"):
        collate([unscored])


def test_demonstrations_are_rows_of_their_own_groups_with_every_token_trained():
    prompts = [
        Prompt("a", "", (1,), demonstration=(demonstrated(5, 2),)),
        Prompt("b", "", (3, 4), demonstration=(demonstrated(2),)),
    ]
    inputs, batch = collate_demonstrations(prompts)
    assert [r.tolist() for r in inputs.response_ids] == [[5, 2], [2]]
    assert batch.sequence_N.tolist() == [0, 0, 1]
    assert batch.mask_N.tolist() == [True, True, True]
    assert batch.turn_N.tolist() == [0, 0, 0]
    assert batch.group_S.tolist() == [0, 1]
    assert batch.demonstration_S.tolist() == [True, True]
    assert batch.reward_S.tolist() == [1.0, 1.0]
    assert dict(batch.signals) == {}


def test_a_prompt_without_a_demonstration_is_refused():
    with pytest.raises(ValueError, match="prompt 'one' has no demonstration"):
        collate_demonstrations([ONE])


def test_samples_and_demonstrations_are_contiguous_for_each_prompt_with_masks_of_their_own():
    shown = (demonstrated(5, 2), unsampled((6, 7), "", by_policy=False), demonstrated(8, 2))
    talk = Prompt("talk", "", (1,), demonstration=shown)
    word = Prompt("word", "", (3, 4), demonstration=(demonstrated(9, 2),))
    said = trajectory(talk, [rewarded(sampled(5, 2), 0.25), observed(6), sampled(7)], 0.5, "length")
    rows = [
        sampled_row(said),
        *demonstrated_rows(talk, 2.0),
        *demonstrated_rows(word),
        *demonstrated_rows(ONE),
    ]
    inputs, batch = collate_rows(rows)
    assert [p.tolist() for p in inputs.prompt_ids] == [[1], [1], [3, 4]]
    assert [r.tolist() for r in inputs.response_ids] == [[5, 2, 6, 7], [5, 2, 6, 7, 8, 2], [9, 2]]
    assert batch.group_S.tolist() == [0, 0, 1]
    assert batch.reward_S.tolist() == [0.5, 2.0, 1.0]
    assert batch.truncated_S.tolist() == [True, False, False]
    assert batch.demonstration_S.tolist() == [False, True, True]
    T, F = True, False
    assert batch.mask_N.tolist() == [T, T, F, T, T, T, F, F, T, T, T, T]
    assert batch.turn_N.tolist() == [0, 0, 1, 2, 0, 0, 1, 1, 2, 2, 0, 0]
    behaviour_N = batch.signal("behaviour_logprob")
    assert behaviour_N.isnan().tolist() == [F, F, T, F, *[T] * 8]
    # What turns leave of a reward is the last token's, so a demonstration's reward stays whole.
    assert batch.signal("token_reward").tolist() == [0, 0.25, *[0] * 10]


def test_the_parts_of_several_reward_functions_are_weighted_and_add_up_to_the_reward():
    def of(right, form):
        reward = RewardResult(
            2.0 * right - 0.5 * form, parts={"right": right, "form": form, "form/length": 7.0}
        )
        return replace(trajectory(ONE, [sampled(1)]), reward=reward)

    rows = [sampled_row(of(1.0, 0.0)), sampled_row(of(0.25, 1.0))]
    parts = reward_parts(rows, {"right": 2.0, "form": -0.5})
    assert {name: part.tolist() for name, part in parts.items()} == {
        "reward_part/right": [2.0, 0.5],
        "reward_part/form": [0.0, -0.5],
    }
    assert sum(parts.values()).tolist() == collate_rows(rows)[1].reward_S.tolist()
    assert reward_parts(rows, {"does not apply": 1.0})["reward_part/does not apply"].tolist() == [0.0, 0.0]
    (demonstration,) = demonstrated_rows(Prompt("shown", "", (1,), demonstration=(demonstrated(2),)))
    assert math.isnan(reward_parts([demonstration], {"right": 1.0})["reward_part/right"].item())
