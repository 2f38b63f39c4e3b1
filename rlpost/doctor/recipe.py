"""`rlpost check`: a recipe's tokens, data, environments and rewards, tried before a run costs time.

Only configuration, tokenizer, data, environments and reward functions are loaded, so that a laptop can check
what a cluster will train.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlpost.config.schema import RunConfig
from rlpost.data import PromptSet
from rlpost.doctor.data_sets import DataSet, data_sets, described, too_few, too_long, unknown_tokens
from rlpost.doctor.environments import open_one
from rlpost.doctor.tokens import token_findings
from rlpost.errors import RlpostError
from rlpost.models import load_tokenizer
from rlpost.models.teacher import check_teacher
from rlpost.preflight import ERROR, OK, UNTRIED, WARNING, Finding, Hub, cheap_findings, known_facts
from rlpost.preflight.hub import named_by, without_network
from rlpost.scoring import Scorer
from rlpost.scoring.canary import Trial, only_timeouts
from rlpost.sizing.model_facts import ModelFacts
from rlpost.training.stage_data import check_demonstrations, load_with_environment
from rlpost.training.teachers import teachers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMES = {"gold": "gold answers", "selfcheck": "its own cases", "garbage": "garbage"}
WANTED = {"gold": "score 1.0", "selfcheck": "score as they say", "garbage": "do not score 1.0"}
REMEDIES = {
    "gold": "correct these rows or the function; if a right response looks different, add "
    "gold_completion(answer) to its file",
    "selfcheck": "correct the function, or its selfcheck",
    "garbage": "correct the function: it must score whatever a model may write, and nonsense below 1.0",
}


@dataclass(frozen=True)
class Tried(Finding):
    """A reward on known answers, with its failures."""

    trial: Trial | None = None


def failed(name: str, error: RlpostError, fallback: str = "") -> Finding:
    """An error as a finding: what happened, where, what was found; then what was needed, and the remedy."""
    details = error.details
    found = [error.what, *(str(details[key]) for key in ("where", "found") if details[key] is not None)]
    needed = None if details["needed"] is None else f"needed: {details['needed']}"
    remedies = [str(text) for text in (needed, details["remedy"]) if text is not None]
    return Finding(name, ERROR, "\n".join(found), "; ".join(remedies) or fallback or "correct what is named")


def examine_recipe(
    config: RunConfig, limit: int | None = None, *, hub: bool = True, fast: bool = False
) -> Iterator[Finding]:
    """Every check of a recipe, each as soon as it is done.

    Args:
        limit: only the first rows of each data set; None looks at all.
        hub: whether the Hugging Face hub may be asked for what is not on this machine.
        fast: only what every start of a run looks at: no tokenizer, data or reward is loaded.
    """
    known = Hub(hub)
    yield from cheap_findings(config, hub=known)
    if fast:
        return
    asked = any(not named.is_path for named in named_by(config))
    with without_network() if asked and known.why_not is not None else nullcontext():
        yield from _tried(config, limit, known)


def _tried(config: RunConfig, limit: int | None, hub: Hub) -> Iterator[Finding]:
    missing = {(named.kind, named.name) for named in named_by(config) if hub.lacks(named) is not None}
    if ("model", config.model.init) in missing:
        needs = "needs the tokenizer, which cannot be had"
        for name in ("tokenizer", "data and rewards"):
            yield Finding(name, UNTRIED, needs, f"see model {config.model.init}")
        return
    try:
        tokenizer = load_tokenizer(config.model)
    except RlpostError as error:
        yield failed("tokenizer", error)
        yield Finding("data and rewards", UNTRIED, "no prompts without the tokenizer", "see tokenizer")
        return
    known = known_facts(config, hub)
    facts = None if isinstance(known, Finding) else known
    yield from token_findings(config, tokenizer, None if facts is None else facts.vocabulary)
    yield from _teachers(config, missing)
    loaded: list[tuple[DataSet, PromptSet]] = []
    for data in data_sets(config, limit):
        prompts, findings = _data(config, data, tokenizer, facts, limit, missing)
        yield from findings
        if prompts is not None:
            loaded.append((data, prompts))
    yield from _environments([pair for pair in loaded if pair[0].scored or not pair[0].learnt], tokenizer)
    yield from _rewards(config, [pair for pair in loaded if pair[0].scored])


def _data(
    config: RunConfig,
    data: DataSet,
    tokenizer: PreTrainedTokenizerBase,
    facts: ModelFacts | None,
    limit: int | None,
    missing: set[tuple[str, str]],
) -> tuple[PromptSet | None, list[Finding]]:
    """The prompts of a data set, where they can be had, and what is found in it."""
    name = f"data of {' and '.join(data.readers)}"
    if ("dataset", data.config.dataset) in missing:
        return None, [Finding(name, UNTRIED, "it cannot be had", f"see dataset {data.config.dataset}")]
    if not tokenizer.chat_template and data.config.template == "chat":
        return None, [Finding(name, UNTRIED, "it needs a chat template", "see chat template")]
    try:
        prompts = load_with_environment(
            data.config, data.environment, tokenizer, config.seed, optional_demonstrations=data.mixed
        )
        if data.learnt:
            check_demonstrations(prompts, config.model)
    except RlpostError as error:
        return None, [failed(name, error)]
    found = described(data.config, prompts)
    if unknown := unknown_tokens(prompts, None if facts is None else facts.vocabulary):
        remedy = "use the tokenizer that the model was saved with"
        return prompts, [Finding(name, ERROR, f"{found}\n{unknown}", remedy, prompts.remarks)]
    if long := too_long(config, data, prompts, None if facts is None else facts.positions):
        remedy = (
            "lower rollout.max_response_tokens, or data.max_prompt_tokens with data.overlong_prompts: drop"
        )
        return prompts, [Finding(name, ERROR, f"{found}\n{long}", remedy, prompts.remarks)]
    if limit is None and (few := too_few(config, data, prompts)):
        remedy = "lower train.prompts_per_step"
        return prompts, [Finding(name, ERROR, f"{found}\n{few}", remedy, prompts.remarks)]
    if prompts.counts.get("broken"):
        remedy = "correct these rows; data.max_broken_share: 0 refuses to train without them"
        return prompts, [Finding(name, WARNING, found, remedy, prompts.remarks)]
    return prompts, [Finding(name, OK, found, notes=prompts.remarks)]


def _teachers(config: RunConfig, missing: set[tuple[str, str]]) -> Iterator[Finding]:
    """Whether each teacher is there, and reads tokens as the policy does."""
    for name, teacher in teachers(config):
        if ("model", teacher.init) in missing:
            yield Finding(name, UNTRIED, "it cannot be had", f"see model {teacher.init}")
            continue
        try:
            check_teacher(config.model, teacher)
        except RlpostError as error:
            yield failed(name, error)
        else:
            yield Finding(name, OK, f"{teacher.init}: the policy's tokens, under the same ids")


def _environments(
    loaded: Sequence[tuple[DataSet, PromptSet]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Finding]:
    """One episode of each environment, with the first prompt of the data that it is played on."""
    for data, prompts in loaded:
        if data.environment is None:
            continue
        name = f"environment {data.environment.name}, {' and '.join(data.readers)}"
        remedy = "correct the environment, its options, or the row that it was opened with"
        try:
            passed, found = open_one(data.environment, prompts[0], tokenizer)
        except RlpostError as error:
            yield failed(name, error, remedy)
        else:
            yield Finding(name, OK, found) if passed else Finding(name, ERROR, found, remedy)


def _rewards(config: RunConfig, loaded: Sequence[tuple[DataSet, PromptSet]]) -> Iterator[Finding]:
    """The rewards on the known answers of all data whose responses are scored."""
    rewards = next((stage.rewards for stage in config.stages if stage.rewards), [])
    if not rewards:
        yield Finding("rewards", OK, "none")
        return
    if not loaded:
        yield Finding("rewards", UNTRIED, "there is no data to try them on", "see data")
        return
    try:
        scorer = Scorer(rewards, config.scoring)
    except RlpostError as error:
        yield failed("rewards", error, "correct the reward function")
        return
    with scorer:
        for data, prompts in loaded:
            where = " and ".join(data.readers)
            try:
                trials = scorer.try_answers(prompts.prompts)
            except RlpostError as error:
                yield failed(f"rewards on {where}", error, "correct the reward function")
                continue
            yield from (_judged(trial, where) for trial in trials)
            if any(map(only_timeouts, trials)):  # on other data it would hang as well
                return


def _judged(trial: Trial, where: str) -> Tried:
    right = trial.tried - trial.skipped - len(trial.failures)
    wanted = WANTED[trial.kind]
    if trial.kind == "garbage" and not (trial.reward.uses_answer or trial.reward.has_gold):
        wanted = "get a score"
    notes = (f"it does not apply to {trial.skipped:,} rows",) if trial.skipped else ()
    place = "" if trial.kind == "selfcheck" else f", {where}"
    found = f"{right:,} of {trial.tried - trial.skipped:,} {wanted}{place}"
    name = f"reward {trial.reward.name}, {NAMES[trial.kind]}"
    if not trial.failures:
        return Tried(name, OK, found, notes=notes, trial=trial)
    return Tried(name, ERROR, f"{found}; see below", REMEDIES[trial.kind], notes, trial)
