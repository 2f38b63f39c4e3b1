"""The prompts of every stage, and what is reported of the rows that they were read from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rlpost.config.dependent import training_data
from rlpost.config.schema import RunConfig
from rlpost.data import PromptSet, load_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_stages(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, PromptSet]:
    """The prompts of each stage, by its name.

    Raises:
        DataError: of a stage's data, more than `data.max_broken_share` is broken, or it cannot be read.
    """
    return {
        stage.name: load_prompts(training_data(stage.data), tokenizer, seed=config.seed)
        for stage in config.stages
    }


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
    return metrics | {f"data/rows_broken/{k}": float(count) for k, count in prompts.broken.items() if count}
