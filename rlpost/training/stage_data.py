"""The prompts of every stage, and what is reported of the rows that they were read from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rlpost.config.dependent import training_data
from rlpost.config.schema import DataConfig, EnvironmentConfig, ModelConfig, RunConfig
from rlpost.data import Prompt, PromptSet, load_prompts
from rlpost.data.lengths import length
from rlpost.data.problems import listing
from rlpost.errors import DataError
from rlpost.models import max_positions
from rlpost.rollout.episodes import conversation_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_stages(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, PromptSet]:
    """The prompts of each stage, by its name.

    Raises:
        DataError: of a stage's data, more than `data.max_broken_share` is broken, or it cannot be read; or
            the model does not read sequences as long as a demonstration that it is to learn.
        UserError: a stage's environment cannot be loaded, or the model's tokenizer cannot talk with it.
    """
    stages = {}
    for stage in config.stages:
        data = training_data(stage.data)
        prompts = load_with_environment(
            data, stage.environment, tokenizer, config.seed, optional_demonstrations=stage.source == "both"
        )
        if stage.has_demonstrations:
            check_demonstrations(prompts, config.model)
        stages[stage.name] = prompts
    return stages


def load_with_environment(
    data: DataConfig,
    environment: EnvironmentConfig | None,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    *,
    optional_demonstrations: bool = False,
) -> PromptSet:
    """Prompts that tell of an environment's tools, where there is one.

    Args:
        optional_demonstrations: a prompt may be without one, as in a stage that samples too.

    Raises:
        UserError: as `load_stages`.
    """
    conversation = None if environment is None else conversation_of(environment, tokenizer)
    return load_prompts(
        data,
        tokenizer,
        seed=seed,
        conversation=conversation,
        optional_demonstrations=optional_demonstrations,
    )


def check_demonstrations(prompts: PromptSet, model: ModelConfig) -> None:
    """Every prompt with its demonstration fits into the model's positions, where these are limited.

    Raises:
        DataError: some do not.
    """
    positions = max_positions(model)
    long = [p for p in prompts if positions is not None and _length(p) > positions]
    if long:
        raise DataError(
            f"{len(long)} of {len(prompts)} demonstrations are longer than the model reads",
            where="data.demonstration_column",
            found=listing(f"{p.place}: {_length(p)} tokens with the prompt" for p in long),
            needed=f"at most {positions} (the model's max_position_embeddings)",
            remedy="remove these rows, or set data.max_demonstration_tokens and "
            "data.overlong_demonstrations; for a tiny model raise model.tiny.max_positions",
        )


def _length(prompt: Prompt) -> int:
    return len(prompt.token_ids) + max(length(prompt.demonstration or ()), length(prompt.rejected or ()))


def remarks(data: Mapping[str, PromptSet]) -> Iterable[str]:
    """What was left out of the stages' data, each fact once however many stages share it."""
    return dict.fromkeys(remark for prompts in data.values() for remark in prompts.remarks)


def data_metrics(prompts: PromptSet) -> dict[str, float]:
    """How many rows the stage's data has, and what became of those that are no prompts."""
    metrics = {
        "data/rows": float(prompts.counts["rows"]),
        "data/rows_broken": float(prompts.counts["broken"]),
        "data/prompts_dropped": float(prompts.counts["dropped"]),
        "data/prompts_truncated": float(prompts.counts["truncated"]),
    }
    for name in ("demonstrations_dropped", "demonstrations_truncated", "demonstrations_missing"):
        if name in prompts.counts:
            metrics[f"data/{name}"] = float(prompts.counts[name])
    return metrics | {f"data/rows_broken/{k}": float(count) for k, count in prompts.broken.items() if count}
