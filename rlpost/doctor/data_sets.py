"""The data sets that a recipe reads, each once, and what is found in them."""

from __future__ import annotations

from dataclasses import dataclass

from rlpost.config.dependent import evaluation_environment, training_data
from rlpost.config.held_out import held_out_sets
from rlpost.config.schema import DataConfig, EnvironmentConfig, RunConfig, StageConfig
from rlpost.data import PromptSet
from rlpost.data.lengths import length

EVALUATION = "the evaluation"


@dataclass(frozen=True)
class DataSet:
    """One data set of a recipe.

    Attributes:
        readers: who reads it, in words.
        scored: whether responses to it are.
        learnt: whether its demonstrations are.
        mixed: whether samples are learnt beside them, so that a prompt may be without one.
        environment: whose tools its prompts tell of.
    """

    readers: tuple[str, ...]
    config: DataConfig
    scored: bool
    learnt: bool
    environment: EnvironmentConfig | None
    mixed: bool = False

    @property
    def evaluated(self) -> bool:
        """Whether held-out problems are among its readers."""
        return any(reader.startswith(EVALUATION) for reader in self.readers)


def data_sets(config: RunConfig, limit: int | None) -> list[DataSet]:
    """The distinct data sets of a recipe, the held-out problems last."""
    readers = [
        DataSet(
            (f"stage {stage.name}",),
            training_data(stage.data),
            stage.has_rollouts,
            stage.has_demonstrations,
            stage.environment,
            stage.source == "both",
        )
        for stage in config.stages
    ]
    scored = config.evaluation.environment is None
    for name, held_out in held_out_sets(config).items():
        reader = f"{EVALUATION} {name}".rstrip()
        readers.append(DataSet((reader,), held_out, scored, False, evaluation_environment(config)))
    distinct: dict[tuple[str, str, bool], DataSet] = {}
    for reader in readers:
        most = (
            limit if reader.config.limit is None else min(limit or reader.config.limit, reader.config.limit)
        )
        data = reader.config.model_copy(update={"limit": most})
        environment = "" if reader.environment is None else reader.environment.model_dump_json()
        known = distinct.get(key := (data.model_dump_json(), environment, reader.mixed))
        distinct[key] = DataSet(
            (known.readers if known else ()) + reader.readers,
            data,
            reader.scored or (known is not None and known.scored),
            reader.learnt or (known is not None and known.learnt),
            reader.environment,
            reader.mixed,
        )
    return list(distinct.values())


def described(config: DataConfig, prompts: PromptSet) -> str:
    """What was read, in words: counts, the longest, the columns."""
    counts = prompts.counts
    parts = [f"{counts['rows']:,} rows", f"{counts['kept']:,} prompts"]
    parts += [
        f"{counts[name]:,} {words}"
        for name, words in (
            ("broken", "broken"),
            ("dropped", "dropped for their length"),
            ("truncated", "truncated"),
            ("duplicates", "duplicates"),
            ("demonstrations_missing", "without a demonstration"),
            ("demonstrations_dropped", "demonstrations dropped for their length"),
            ("demonstrations_truncated", "demonstrations truncated"),
        )
        if counts.get(name)
    ]
    longest = max(len(p.token_ids) for p in prompts)
    parts.append(f"the longest has {longest:,} of at most {config.max_prompt_tokens:,} tokens")
    if shown := [length(p.demonstration) for p in prompts if p.demonstration is not None]:
        parts.append(f"the longest demonstration {max(shown):,}")
    return f"{', '.join(parts)}; columns: {', '.join(prompts[0].columns) or 'none'}"


def too_long(config: RunConfig, data: DataSet, prompts: PromptSet, positions: int | None) -> str:
    """How the longest prompt with the longest response exceeds what the model reads; "" where it does not."""
    if positions is None or not data.scored:
        return ""
    responses = [stage.rollout.max_response_tokens for stage in _stages(config, data) if stage.has_rollouts]
    if data.evaluated:
        last = config.stages[-1].rollout.max_response_tokens
        responses.append(config.evaluation.max_response_tokens or last)
    response, longest = max(responses, default=0), max(len(prompt.token_ids) for prompt in prompts)
    if longest + response <= positions:
        return ""
    return (
        f"{longest:,} tokens of the longest prompt + {response:,} max_response_tokens = "
        f"{longest + response:,}, but the model reads {positions:,}"
    )


def unknown_tokens(prompts: PromptSet, rows: int | None) -> str:
    """Which prompts hold tokens that the embedding has no row for; "" where none does."""
    beyond = [prompt for prompt in prompts if rows is not None and max(prompt.token_ids) >= rows]
    if not beyond:
        return ""
    first = beyond[0]
    return (
        f"{len(beyond):,} prompts hold tokens that the model does not know, the first at "
        f"{first.place or first.id}: id {max(first.token_ids)}, and the embedding has {rows} rows"
    )


def too_few(config: RunConfig, data: DataSet, prompts: PromptSet) -> str:
    """How a step needs more prompts than there are; "" where it does not."""
    for stage in _stages(config, data):
        if stage.train.prompts_per_step > len(prompts):
            return f"a step of stage {stage.name} needs {stage.train.prompts_per_step:,} prompts_per_step"
    return ""


def _stages(config: RunConfig, data: DataSet) -> list[StageConfig]:
    return [stage for stage in config.stages if f"stage {stage.name}" in data.readers]
