"""The guided and the unguided form of a problem are groups of their own, whatever shares a batch."""

import pytest

from rlpost.config.schema import DataConfig
from rlpost.data import load_prompts
from rlpost.data.collate import collate
from rlpost.data.trajectory import RewardResult, Trajectory, Turn
from rlpost.estimator import build_objective

ROWS = (
    '{"id": "p", "prompt": "1+1?", "answer": "2", "variant": "unguided"}\n'
    '{"id": "p+guided", "prompt": "1+1? One", "answer": "2", "variant": "guided"}\n'
)


def test_advantages_are_never_pooled_over_the_forms_of_a_problem(tmp_path, tiny_tokenizer):
    (tmp_path / "train.jsonl").write_text(ROWS)
    prompts = load_prompts(DataConfig(path=str(tmp_path / "train.jsonl"), id_column="id"), tiny_tokenizer)
    turn = Turn((7,), "x", True, (-1.0,), (0,))
    rewards = {"p": [0.0] * 8, "p+guided": [1.0] + [0.0] * 7}

    def batch(pooled):
        return collate(
            [
                Trajectory(f"{p.id}-{k}", prompts[0] if pooled else p, (turn,), "eos", 0, RewardResult(score))
                for p in prompts
                for k, score in enumerate(rewards[p.id])
            ]
        )[1]

    objective = build_objective({"base": "grpo"}, max_response_tokens=8)
    (term,) = objective.prepare(batch(pooled=False), 1).terms
    assert term.advantage_N[:8].tolist() == [0.0] * 8
    assert term.advantage_N[8:].tolist() == pytest.approx([2.474867] + [-0.353552] * 7, abs=1e-6)
    # What pooling would do: push every unguided response down for the guided one's success.
    (term,) = objective.prepare(batch(pooled=True), 1).terms
    assert term.advantage_N.tolist() == pytest.approx(
        [-0.249999] * 8 + [3.749985] + [-0.249999] * 7, abs=1e-6
    )
