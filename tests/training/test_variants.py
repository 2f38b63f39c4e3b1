"""Rewards by variant, and what each variant has solved so far."""

import pytest

from rlpost.data.trajectory import Prompt, RewardResult, Trajectory, Turn
from rlpost.training.state import RunState
from rlpost.training.variants import by_variant, variant_metrics


def answer(id, score, **columns):
    turn = Turn((1,), "x", True, (-1.0,), (0,))
    reward = RewardResult(score, "error" if score is None else "scored")
    return Trajectory(f"s-{id}", Prompt(id, "?", (1,), columns), (turn,), "eos", 0, reward)


def test_each_variant_has_its_mean_and_counts_what_some_response_has_solved_so_far(tmp_path):
    state = RunState()
    first = [
        answer("a", 0.0, variant="unguided"),
        answer("a+guided", 1.0, variant="guided"),
        answer("a+guided", 0.5, variant="guided"),
        answer("b+guided", None, variant="guided"),
        answer("c", 1.0),
    ]
    assert variant_metrics(by_variant(first, "variant"), state.solved) == {
        "reward/variant/unguided/mean": 0.0,
        "reward/variant/guided/mean": 0.75,
        "reward/variant/unguided/solved": 0.0,
        "reward/variant/guided/solved": 1.0,
    }
    state.save(tmp_path / "state.json")
    state = RunState.load(tmp_path / "state.json")
    second = [answer("a", 1.0, variant="unguided"), answer("a", 0.0, variant="unguided")]
    metrics = variant_metrics(by_variant(second, "variant"), state.solved)
    assert metrics == {
        "reward/variant/unguided/mean": 0.5,
        "reward/variant/unguided/solved": 1.0,
        "reward/variant/guided/solved": pytest.approx(1.0),
    }
    state.next_stage()
    assert state.solved == {}


def test_without_the_column_there_are_no_variants():
    assert by_variant([answer("a", 1.0, variant="guided")], None) == {}
