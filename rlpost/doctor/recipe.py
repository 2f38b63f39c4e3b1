"""`rlpost check`: a recipe's data, and its rewards on every gold answer, before a run costs time.

Only tokenizer, data, environments and reward functions are loaded, so that a laptop can check what a
cluster will train.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlpost.config.dependent import evaluation_environment, training_data
from rlpost.config.held_out import held_out_sets
from rlpost.config.schema import DataConfig, EnvironmentConfig, RunConfig
from rlpost.data import PromptSet
from rlpost.data.lengths import length
from rlpost.doctor.environments import open_one
from rlpost.doctor.machine import output_checks
from rlpost.errors import RlpostError
from rlpost.models import load_tokenizer
from rlpost.models.teacher import check_teacher
from rlpost.scoring import Scorer
from rlpost.scoring.canary import Trial
from rlpost.training.stage_data import check_demonstrations, load_with_environment
from rlpost.training.teachers import teachers
from rlpost.versions import OK

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WANTED = {
    "gold": "gold answers score 1.0",
    "selfcheck": "its own cases score as they say",
    "garbage": "garbage does not score 1.0",
}


@dataclass(frozen=True)
class Finding:
    """One check of a recipe.

    Attributes:
        name: what was looked at.
        passed: None when it could not be tried, because of another failure.
        found: in words.
        notes: what else should be known, whether it passed or not.
        trial: of a reward on known answers, with its failures.
    """

    name: str
    passed: bool | None
    found: str
    notes: tuple[str, ...] = ()
    trial: Trial | None = None


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


def examine_recipe(config: RunConfig, limit: int | None = None) -> Iterator[Finding]:
    """Every check of a recipe, each as soon as it is done.

    Args:
        limit: only the first rows of each data set; None looks at all.
    """
    for check in output_checks(Path(config.output)):
        notes = (check.note,) if check.verdict != OK and check.note else ()
        name = check.name if check.name != config.output else f"output {check.name}"
        yield Finding(name, not check.stops, check.found, notes)
    try:
        tokenizer = load_tokenizer(config.model)
    except RlpostError as error:
        yield Finding("tokenizer", False, str(error))
        yield Finding("data and rewards", None, "prompts cannot be made without the tokenizer")
        return
    yield Finding("tokenizer", True, f"{config.model.init}: {len(tokenizer):,} tokens")
    yield from _teachers(config)
    loaded: list[tuple[DataSet, PromptSet]] = []
    for data in data_sets(config, limit):
        name = f"data of {' and '.join(data.readers)}"
        try:
            prompts = load_with_environment(
                data.config, data.environment, tokenizer, config.seed, optional_demonstrations=data.mixed
            )
            if data.learnt:
                check_demonstrations(prompts, config.model)
        except RlpostError as error:
            yield Finding(name, False, str(error))
            continue
        yield Finding(name, True, _described(data.config, prompts), prompts.remarks)
        loaded.append((data, prompts))
    yield from _environments([pair for pair in loaded if pair[0].scored or not pair[0].learnt], tokenizer)
    yield from _rewards(config, [pair for pair in loaded if pair[0].scored])


def _teachers(config: RunConfig) -> Iterator[Finding]:
    """Whether each teacher is there, and reads tokens as the policy does."""
    for name, teacher in teachers(config):
        try:
            check_teacher(config.model, teacher)
        except RlpostError as error:
            yield Finding(name, False, str(error))
        else:
            yield Finding(name, True, f"{teacher.init}: the policy's tokens, under the same ids")


def _environments(
    loaded: Sequence[tuple[DataSet, PromptSet]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Finding]:
    """One episode of each environment, with the first prompt of the data that it is played on."""
    for data, prompts in loaded:
        if data.environment is None:
            continue
        name = f"environment {data.environment.name}, {' and '.join(data.readers)}"
        try:
            passed, found = open_one(data.environment, prompts[0], tokenizer)
        except RlpostError as error:
            passed, found = False, str(error)
        yield Finding(name, passed, found)


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
        reader = f"the evaluation {name}".rstrip()
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


def _described(config: DataConfig, prompts: PromptSet) -> str:
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


def _rewards(config: RunConfig, loaded: Sequence[tuple[DataSet, PromptSet]]) -> Iterator[Finding]:
    """The rewards on the known answers of all data whose responses are scored."""
    rewards = next((stage.rewards for stage in config.stages if stage.rewards), [])
    if not rewards or not loaded:
        yield Finding("rewards", None if rewards else True, "no data to try them on" if rewards else "none")
        return
    try:
        scorer = Scorer(rewards, config.scoring)
    except RlpostError as error:
        yield Finding("rewards", False, str(error))
        return
    with scorer:
        for data, prompts in loaded:
            where = " and ".join(data.readers)
            try:
                trials = scorer.try_answers(prompts.prompts)
            except RlpostError as error:
                yield Finding(f"rewards on {where}", False, str(error))
                continue
            yield from (_judged(trial, where) for trial in trials)


def _judged(trial: Trial, where: str) -> Finding:
    right = trial.tried - trial.skipped - len(trial.failures)
    found = f"{right:,} of {trial.tried - trial.skipped:,}"
    wanted = WANTED[trial.kind]
    if trial.kind == "garbage" and not (trial.reward.uses_answer or trial.reward.has_gold):
        wanted = "garbage gets a score"
    notes = (f"it does not apply to {trial.skipped:,} rows",) if trial.skipped else ()
    place = "" if trial.kind == "selfcheck" else f", {where}"
    name = f"reward {trial.reward.name}: {wanted}{place}"
    return Finding(name, not trial.failures, found, notes, trial)
