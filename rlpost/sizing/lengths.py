"""The longest sequences of a stage, and the largest micro-batch that they make."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from rlpost.config.schema import DataConfig, ModelConfig, RunConfig, StageConfig
from rlpost.errors import DataError
from rlpost.sizing.model_facts import ModelFacts


@dataclass(frozen=True)
class Lengths:
    """Tokens of a stage's longest sequence.

    Attributes:
        prompt: of the longest prompt that the stage may have.
        response: of the longest response, all turns together.
        known: whether they were counted or set; False where the model's positions are the only limit.
    """

    prompt: int
    response: int
    known: bool = True

    @property
    def total(self) -> int:
        """Both."""
        return self.prompt + self.response


def stage_lengths(config: RunConfig, stage: StageConfig, facts: ModelFacts) -> Lengths:
    """What the recipe allows; the prompts of built-in tasks, which cost nothing to make, are counted."""
    data = stage.data
    counted = _counted(config.model, data, config.seed)
    prompt, demonstration = counted or (data.max_prompt_tokens, data.max_demonstration_tokens)
    room = None if facts.positions is None else max(1, facts.positions - prompt)
    responses, known = [], True
    if stage.has_rollouts:
        responses.append(_sampled(stage))
    if stage.has_demonstrations:
        known = demonstration is not None
        responses.append(demonstration or room or stage.train.tokens_per_microbatch)
    response = max(responses)
    return Lengths(prompt, response if room is None else min(response, room), known)


def largest_microbatch(config: RunConfig, stage: StageConfig, lengths: Lengths) -> int:
    """Tokens that one forward pass of a rank reads at most; the last of each sequence is not read."""
    train = stage.train
    rows = train.prompts_per_step * (train.samples_per_prompt + (stage.source == "both"))
    if stage.source == "demonstrations" and stage.data.rejected_column is not None:
        rows *= 2
    rows = -(-rows // (train.updates_per_step * config.cluster.learner_ranks))
    limit = train.tokens_per_microbatch
    if not lengths.known:
        return limit
    # A sequence above the limit is a micro-batch of its own.
    most = max(1, min(rows, limit // lengths.total))
    return most * (lengths.total - 1)


def _sampled(stage: StageConfig) -> int:
    environment, own = stage.environment, stage.rollout.max_response_tokens
    if environment is None:
        return own
    turn = own + environment.max_observation_tokens
    return environment.max_episode_tokens or environment.max_turns * turn


def _counted(model: ModelConfig, data: DataConfig, seed: int) -> tuple[int, int | None] | None:
    """The longest prompt and demonstration of a built-in task for the tiny model."""
    if data.task is None or model.init != "tiny":
        return None
    return _longest(model.model_dump_json(), data.model_dump_json(), seed)


@lru_cache(maxsize=16)
def _longest(model_json: str, data_json: str, seed: int) -> tuple[int, int | None] | None:
    model, data = ModelConfig.model_validate_json(model_json), DataConfig.model_validate_json(data_json)
    from rlpost.data import load_prompts
    from rlpost.models import load_tokenizer

    try:
        prompts = load_prompts(data, load_tokenizer(model), seed=seed).prompts
    except DataError:
        return None
    shown = [sum(len(t.token_ids) for t in p.demonstration) for p in prompts if p.demonstration]
    return max(len(prompt.token_ids) for prompt in prompts), max(shown, default=None)
