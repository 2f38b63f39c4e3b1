"""The signatures of reward functions: told apart by parameter names, and given what each one expects."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rlpost.errors import RewardError

Form = Literal["native", "trl", "verl", "verl_batch"]
Sample = tuple[str, str, Mapping[str, Any]]
"""Prompt, completion and columns of one response."""

MARKERS: tuple[tuple[str, Form], ...] = (
    ("completions", "trl"),
    ("solution_strs", "verl_batch"),
    ("solution_str", "verl"),
    ("completion", "native"),
)
"""The parameter that takes the response, or the responses, says which form a function has."""
LISTED: tuple[Form, ...] = ("trl", "verl_batch")
"""Forms that take lists, and return a list of scores."""
GROUND_TRUTH = ("ground_truth", "reward_model", "answer")
SUPPLIED: dict[Form, tuple[str, ...]] = {
    "native": ("completion", "prompt"),
    "trl": ("completions", "prompts", "log_extra", "log_metric"),
    "verl": ("solution_str", "data_source", "extra_info"),
    "verl_batch": ("solution_strs", "data_sources", "extra_infos"),
}
REFUSED = {
    "completion_ids": "token ids stay with the trainer: read `completions`; for lengths in tokens there is "
    "the algorithm's `soft_overlong`",
    "trainer_state": "a score must not depend on the step; what changes over time is a stage of the recipe",
    "environments": "there are no environments: read what the response says",
    "reward_router_address": "there is no reward model server: call an endpoint, its address an option",
    "reward_model_tokenizer": "there is no reward model: load a tokenizer in the file's `warm_up`",
}
"""What TRL and verl pass beside these and rlpost does not, with what to do instead."""


def form_of(parameters: Mapping[str, inspect.Parameter], reference: str) -> Form:
    """Which form a function has.

    Raises:
        RewardError: it does not take the response, or takes arguments by position only.
    """
    if any(p.kind is p.POSITIONAL_ONLY for p in parameters.values()):
        raise RewardError(
            "a reward function's arguments are passed by name",
            where=reference,
            found="a `/` in its signature",
        )
    for marker, form in MARKERS:
        if marker in parameters:
            return form
    raise RewardError(
        "the reward function does not take the response",
        where=reference,
        found=f"parameters: {', '.join(parameters) or 'none'}",
        needed="a parameter `completion` (or `completions` as in TRL, `solution_str` as in verl)",
        remedy=next((REFUSED[name] for name in parameters if name in REFUSED), None),
    )


def check_supplied(required: Sequence[str], form: Form, reference: str) -> None:
    """Refuse a function that cannot do without something which only its own trainer has.

    Raises:
        RewardError: names the parameter and what to do instead.
    """
    refused = [name for name in required if name in REFUSED] if form != "native" else []
    if refused:
        raise RewardError(
            f"the reward function requires `{refused[0]}`, which rlpost does not pass",
            where=reference,
            needed=f"a default, as in `{refused[0]}=None`, or a function without it",
            remedy=REFUSED[refused[0]],
        )


def columns_for(form: Form, parameter: str) -> tuple[str, ...]:
    """The columns of which one must be there for a required parameter."""
    if (form, parameter) in (("verl", "ground_truth"), ("verl_batch", "ground_truths")):
        return GROUND_TRUTH
    return (parameter,)


def arguments(form: Form, samples: Sequence[Sample]) -> dict[str, Any]:
    """All that a function of this form may ask for; one sample, or for `LISTED` forms any number.

    The samples of one call have the same columns.
    """
    prompt, completion, columns = samples[0]
    if form == "native":
        return {**columns, "completion": completion, "prompt": prompt}
    if form == "trl":
        return _trl(samples)
    filled = [{"data_source": "", "extra_info": {}, **columns} for _, _, columns in samples]
    if form == "verl":
        truth = {"solution_str": completion, "ground_truth": ground_truth(columns)}
        return {**filled[0], **truth}
    return {
        "data_sources": [row["data_source"] for row in filled],
        "solution_strs": [text for _, text, _ in samples],
        "ground_truths": [ground_truth(columns) for *_, columns in samples],
        "extra_infos": [row["extra_info"] for row in filled],
    }


def _trl(samples: Sequence[Sample]) -> dict[str, Any]:
    first = samples[0][2]
    chat = isinstance(first.get("prompt"), (list, tuple))
    lists = {
        name: [columns[name] for *_, columns in samples]
        for name in first
        if name not in ("prompt", "completion", "completion_ids")
    }
    lists["prompts"] = [columns["prompt"] if chat else prompt for prompt, _, columns in samples]
    lists["completions"] = [
        [{"role": "assistant", "content": text}] if chat else text for _, text, _ in samples
    ]
    return lists


def ground_truth(columns: Mapping[str, Any]) -> Any:
    """The gold answer, where verl, TRL or rlpost's own data sets keep it."""
    if "ground_truth" in columns:
        return columns["ground_truth"]
    nested = columns.get("reward_model")
    if isinstance(nested, Mapping) and "ground_truth" in nested:
        return nested["ground_truth"]
    return columns.get("answer")
