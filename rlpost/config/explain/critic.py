"""What a stage's critic is, how it learns and what it costs, in words."""

from __future__ import annotations

from rlpost.config.rules.critic_rules import learns_outcomes
from rlpost.config.schema import CriticConfig, RunConfig, StageConfig
from rlpost.config.words import count
from rlpost.estimator import Objective


def critic_plan(critic: CriticConfig, stage: StageConfig, objective: Objective, config: RunConfig) -> str:
    """The lines about the critic, as one text."""
    outcomes = learns_outcomes(objective)
    heads = "one logit" if outcomes else count(len(objective.value_heads), "value")
    clip = "values not clipped" if critic.value_clip is None else f"values clipped at {critic.value_clip:g}"
    learns = "learns which responses are right: cross-entropy of their mean logits" if outcomes else clip
    lines = [
        f"{heads} for each {'token' if outcomes else 'state'}, from {_backbone(critic)}",
        f"AdamW, learning rate {critic.learning_rate:g}; gradient norm clipped at {critic.max_grad_norm:g}; "
        + learns,
    ]
    if critic.warmup_steps:
        left = stage.train.steps - critic.warmup_steps
        lines.append(
            f"the critic alone learns in the first {count(critic.warmup_steps, 'step')}, "
            f"the policy in the {left} after them"
        )
    elif outcomes:
        lines.append(
            "no warm-up: until it has learnt something, its logits are 0, and so is every token's weight"
        )
    return "\n".join([*lines, _cost(critic, config)])


def _backbone(critic: CriticConfig) -> str:
    if critic.shared:
        return f"a head on the policy's hidden states; {critic.coefficient:g} x its loss joins the policy's"
    if critic.init is None:
        return "a backbone of its own, a copy of the policy when the stage begins, and a head"
    return f"a backbone of its own, {critic.init}, and a head"


def _cost(critic: CriticConfig, config: RunConfig) -> str:
    passes = "a step costs one more forward pass, an update one more forward and backward pass"
    if critic.shared:
        return f"costs no further model;\n{passes} of the policy's backbone"
    ranks, learner = config.cluster.learner_ranks, config.learner
    divided = learner.backend == "deepspeed" and learner.zero_stage > 0 and ranks > 1
    share = f", divided as `zero_stage: {learner.zero_stage}` says" if divided else " on every rank"
    return f"costs a second model: 16 bytes a parameter{share};\n{passes} of it"
