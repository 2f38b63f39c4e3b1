"""Critics and batches of PPO for the learner's tests."""

from __future__ import annotations

from dataclasses import replace

import torch
from learner_batches import model_inputs, token_batch

from rlpost.config.schema import CriticConfig
from rlpost.data.collate import ModelInputs
from rlpost.estimator import Objective, Prepared, build_objective
from rlpost.learner.critic import CriticPlan

HORIZONS = {"gae": {"auxiliary": [0.5, 0.9], "discount": 0.99}}


def ppo(**changes) -> Objective:
    return build_objective({"base": "ppo"} | changes, max_response_tokens=32)


def plan(objective: Objective | None = None, **settings) -> CriticPlan:
    config = CriticConfig(**{"learning_rate": 1e-3, "value_clip": 0.2} | settings)
    return CriticPlan(config, (objective or ppo()).value_heads)


def credited() -> Objective:
    """Leave-one-out advantages of right and wrong, weighted by a token reward model."""
    shaping = ["signed_reward", "outcome_credit"]
    return build_objective({"base": "rloo", "shaping": shaping, "selection": "one_right_one_wrong"})


PLANS = {
    "own": plan(max_grad_norm=0.5),
    "shared": plan(shared=True, coefficient=0.5),
    "outcome": plan(credited(), value_clip=None),
}


def ppo_arguments(seed=0, objective=None, values=None) -> tuple[ModelInputs, Prepared, Objective, float]:
    """What one call of `update` takes; the values are random unless they are given, by head."""
    inputs, objective = model_inputs(seed=seed), objective or ppo()
    batch = token_batch(inputs, seed)
    if values is None:
        generator = torch.Generator().manual_seed(100 + seed)
        values = {head: 0.3 * torch.randn(batch.N, generator=generator) for head in objective.value_heads}
    return inputs, objective.prepare(batch.with_signals(**values)), objective, 0.8


def outcome_arguments(seed=0, logits=None) -> tuple[ModelInputs, Prepared, Objective, float]:
    """The same for a token reward model; half the responses are right, the logits random unless given."""
    inputs, objective = model_inputs(seed=seed), credited()
    batch = token_batch(inputs, seed)
    rows = torch.arange(batch.S, dtype=torch.float64)
    batch = replace(batch, reward_S=(rows + seed) % 2, sequence_signals={"draw_seed": rows})
    if logits is None:
        logits = 2.0 * torch.randn(batch.N, generator=torch.Generator().manual_seed(100 + seed))
    prepared = objective.prepare(batch.with_signals(outcome=logits))
    return inputs, prepared, objective, 0.8


def critic_arguments(kind: str, seed=0) -> tuple[ModelInputs, Prepared, Objective, float]:
    """What an update takes with that one of PLANS."""
    return outcome_arguments(seed) if kind == "outcome" else ppo_arguments(seed)
