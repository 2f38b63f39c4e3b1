"""Small models and batches for the learner's tests."""

from __future__ import annotations

from dataclasses import replace

import torch

from rlpost.config.schema import ModelConfig, TinyModelConfig, TrainConfig
from rlpost.data.collate import ModelInputs
from rlpost.estimator import Objective, Prepared, TokenBatch, build_objective

MODEL = ModelConfig(
    init="tiny",
    tiny=TinyModelConfig(hidden_size=32, layers=2, heads=2, intermediate_size=48, max_positions=256),
)
VOCABULARY = 261
PROMPTS = (3, 3, 7, 7, 1, 1, 12, 12, 5, 5)
RESPONSES = (4, 9, 1, 22, 6, 0, 5, 5, 14, 2)


def train(**changes) -> TrainConfig:
    return TrainConfig(**{"learning_rate": 1e-2, "tokens_per_microbatch": 48} | changes)


def model_inputs(prompts=PROMPTS, responses=RESPONSES, seed=0, vocabulary=VOCABULARY) -> ModelInputs:
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> torch.Tensor:
        return torch.randint(5, vocabulary, (length,), generator=generator)

    return ModelInputs(tuple(ids(n) for n in prompts), tuple(ids(n) for n in responses))


def token_batch(inputs: ModelInputs, seed=0, dtype=torch.float64) -> TokenBatch:
    """Pairs of rows share a prompt's group, turns have four tokens; signals are random.

    A tenth of the tokens are observations.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([len(ids) for ids in inputs.response_ids])
    rows, tokens = len(sizes), int(sizes.sum())

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    old = -5.5 + 0.1 * noise(tokens)
    return TokenBatch(
        sequence_N=torch.repeat_interleave(torch.arange(rows), sizes),
        mask_N=torch.rand(tokens, generator=generator) > 0.1,
        turn_N=torch.cat([torch.arange(n) // 4 for n in sizes.tolist()]),
        group_S=torch.arange(rows) // 2,
        reward_S=noise(rows).to(torch.float64),
        truncated_S=torch.zeros(rows, dtype=torch.bool),
        demonstration_S=torch.zeros(rows, dtype=torch.bool),
        signals={"old_logprob": old, "behaviour_logprob": old, "ref_logprob": old + 0.1 * noise(tokens)},
    )


def grpo() -> Objective:
    """With both regularisers, so that the entropy's gradient and the reference's log-probs are in it."""
    return build_objective({"base": "grpo", "kl": 0.1, "entropy": 0.05}, max_response_tokens=32)


def update_arguments(seed=0) -> tuple[ModelInputs, Prepared, Objective, float]:
    """What one call of `update` takes."""
    inputs, objective = model_inputs(seed=seed), grpo()
    return inputs, objective.prepare(token_batch(inputs, seed)), objective, 0.8


def arguments_of_row(name: str, **changes) -> tuple[ModelInputs, Prepared, Objective, float]:
    """The same for one row of the table with some changes, on a batch with every signal that a row reads.

    Rows that train rollouts and demonstrations have two prompts of four rollouts and a demonstration each,
    whose older log-probs nobody knows; nothing solves the first prompt.
    """
    inputs = model_inputs()
    batch = token_batch(inputs)
    generator = torch.Generator().manual_seed(7)
    objective = build_objective({"base": name, **changes}, max_response_tokens=32)
    rows = {term.rows for term in objective.terms}
    mixed = {"rollouts", "demonstrations"} <= rows
    shown_S = torch.arange(batch.S) % 5 == 4 if mixed else torch.full((batch.S,), "demonstrations" in rows)
    noise_N = torch.rand(batch.N, generator=generator, dtype=torch.float64)
    noise_S = torch.rand(batch.S, generator=generator, dtype=torch.float64)
    batch = replace(
        batch,
        group_S=torch.arange(batch.S) // 5,
        reward_S=(torch.arange(batch.S) % 2).to(torch.float64) * (0.5 + noise_S),
        demonstration_S=shown_S,
        progress=0.3,
        sequence_signals={
            "prompt_visits": torch.full_like(noise_S, 2.0),
            "prompt_samples": torch.full_like(noise_S, 4.0),
            "prompt_mean": torch.full_like(noise_S, 0.25),
            "prompt_variance": torch.full_like(noise_S, 0.1),
            "greedy_reward": torch.full_like(noise_S, 0.4),
            "draw_seed": torch.arange(batch.S, dtype=torch.float64) * 2.0**40,
            "reward_part/a": noise_S,
            "reward_part/b": 1.0 - noise_S.square(),
        },
    ).with_signals(
        entropy=noise_N, value=noise_N - 0.5, outcome=4.0 * noise_N - 2.0, teacher_logprob=noise_N - 6.0
    )
    if mixed:
        solved_S = (torch.arange(batch.S) % 2 == 1) & (torch.arange(batch.S) >= 5)
        unknown_N = torch.where(batch.spread(shown_S), float("nan"), batch.signals["old_logprob"])
        batch = replace(batch, reward_S=(solved_S | shown_S).to(torch.float64))
        batch = batch.with_signals(old_logprob=unknown_N, behaviour_logprob=unknown_N)
    prepared = objective.prepare(batch)
    return inputs.rows(prepared.kept_S.tolist()), prepared, objective, 0.8


def flat_gradient(model: torch.nn.Module) -> torch.Tensor:
    """All gradients of a model, one after the other."""
    return torch.cat([p.grad.flatten() for p in model.parameters()])
