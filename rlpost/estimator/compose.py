"""From a configuration's words to an Objective, or one clear reason why not.

{base: dapo, mask: {clip: {low: 0.2, high: 0.3}}, shaping: [{kl_in_reward: {coefficient: 0.03}}], kl: 0.001}
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

from rlpost.estimator.advantage import Constant, GroupCentred, GroupNormalised, LeaveOneOut, Reward
from rlpost.estimator.aggregation import (
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    SequenceSumOverConstant,
    TokenMean,
    TokenSum,
)
from rlpost.estimator.algorithms import ALGORITHMS
from rlpost.estimator.denominator import Behaviour, Clipped, Current, Old, Unit
from rlpost.estimator.granularity import SequenceRatio, TokenRatio
from rlpost.estimator.mask import Clip, DualClip, Keep
from rlpost.estimator.objective import Objective, Term
from rlpost.estimator.regulariser import KL, Entropy, Regulariser
from rlpost.estimator.selection import DropUniform, KeepAll
from rlpost.estimator.shaping import KLInReward, SoftOverlong

PARTS: dict[str, dict[str, type[Any]]] = {
    "advantage": {
        "constant": Constant,
        "reward": Reward,
        "leave_one_out": LeaveOneOut,
        "group_centred": GroupCentred,
        "group_normalised": GroupNormalised,
    },
    "denominator": {
        "current": Current,
        "old": Old,
        "behaviour": Behaviour,
        "clipped": Clipped,
        "unit": Unit,
    },
    "granularity": {"token": TokenRatio, "sequence": SequenceRatio},
    "mask": {"keep": Keep, "clip": Clip, "dual_clip": DualClip},
    "aggregation": {
        "token_mean": TokenMean,
        "token_sum": TokenSum,
        "sequence_mean_token_sum": SequenceMeanTokenSum,
        "sequence_mean_token_mean": SequenceMeanTokenMean,
        "sequence_sum_over_constant": SequenceSumOverConstant,
    },
    "shaping": {"soft_overlong": SoftOverlong, "kl_in_reward": KLInReward},
    "selection": {"all": KeepAll, "drop_uniform": DropUniform},
}
"""The parts that a configuration can name, by axis."""

TERM_AXES = ("advantage", "denominator", "granularity", "mask", "aggregation")
KEYS = ("base", *TERM_AXES, "shaping", "selection", "kl", "entropy")


class CompositionError(ValueError):
    """The algorithm named in a configuration does not exist or its parts do not fit together."""


def build_objective(spec: Mapping[str, Any], *, max_response_tokens: int | None = None) -> Objective:
    """The objective that `spec` describes: a row of the table with some parts changed.

    Args:
        spec: `base` names a row; `advantage`, `denominator`, `granularity`, `mask`,
            `aggregation` and `selection` replace its parts, `shaping` (a list) is added to its
            own and replaces those of the same kind; `kl` and `entropy` are a coefficient or a mapping.
        max_response_tokens: fills in the constants that rows leave to the run.

    Raises:
        CompositionError: an unknown name, a wrong parameter, or parts that contradict.
    """
    for key in spec:
        if key not in KEYS:
            raise CompositionError(f"unknown key {key!r}{_nearest(key, KEYS)}; known: {', '.join(KEYS)}")
    name = spec.get("base", "grpo")
    if not isinstance(name, str) or name not in ALGORITHMS:
        raise CompositionError(f"no algorithm {name!r}{_nearest(name, ALGORITHMS)}; see `rlpost algorithms`")
    row = ALGORITHMS[name].objective
    changes: dict[str, Any] = {axis: _part(axis, spec[axis]) for axis in TERM_AXES if axis in spec}
    shapings = spec.get("shaping", [])
    if isinstance(shapings, str) or not isinstance(shapings, Sequence):
        raise CompositionError(f"shaping must be a list of parts, found {shapings!r}")
    added = tuple(_part("shaping", item) for item in shapings)
    terms = []
    for term in row.terms:
        own = tuple(part for part in term.shaping if type(part) not in map(type, added))
        term = dataclasses.replace(term, **changes, shaping=(*own, *added))
        terms.append(_fill(term, max_response_tokens))
    selection = _part("selection", spec["selection"]) if "selection" in spec else row.selection
    objective = Objective(tuple(terms), selection, (*row.regularisers, *_regularisers(spec)))
    for term in objective.terms:
        _check(term)
    return objective


def _part(axis: str, word: object) -> Any:
    """`clip` or `{clip: {low: 0.2}}` as the part it names."""
    name: object
    options: object = None
    if isinstance(word, str):
        name = word
    elif isinstance(word, Mapping) and len(word) == 1:
        name, options = next(iter(word.items()))
    else:
        raise CompositionError(f"{axis} must be a name or {{name: {{option: value}}}}, found {word!r}")
    known = PARTS[axis]
    if name not in known:
        raise CompositionError(f"no {axis} {name!r}{_nearest(str(name), known)}; known: {', '.join(known)}")
    return _construct(f"{axis}.{name}", known[str(name)], {} if options is None else options)


def _construct(where: str, kind: type[Any], options: object) -> Any:
    if not isinstance(options, Mapping):
        raise CompositionError(f"{where}: options must be a mapping, found {options!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in options.items():
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise CompositionError(f"{where}: unknown option {key!r}{_nearest(key, fields)}; known: {known}")
        if not _fits(value, str(fields[key].type)):
            raise CompositionError(f"{where}.{key}: found {value!r}, needed {fields[key].type}")
    for key, value in options.items():
        allowed = get_args(get_type_hints(kind).get(key)) if isinstance(value, str) else ()
        if allowed and value not in allowed and kind is not KL:
            raise CompositionError(f"{where}.{key}: found {value!r}, needed one of {', '.join(allowed)}")
    try:
        return kind(**options)
    except ValueError as error:
        raise CompositionError(f"{where}: {error}") from error


def _fits(value: object, annotation: str) -> bool:
    """Whether a configuration's value is of the type that an option's annotation names."""
    if value is None:
        return "None" in annotation
    if isinstance(value, str):
        return "Literal" in annotation
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    return is_number and "Literal" not in annotation


def _regularisers(spec: Mapping[str, Any]) -> list[Regulariser]:
    found: list[Regulariser] = []
    for key, kind in (("kl", KL), ("entropy", Entropy)):
        word = spec.get(key)
        if word is None or word == 0:
            continue
        options = word if isinstance(word, Mapping) else {"coefficient": word}
        found.append(_construct(key, kind, options))
    return found


def _fill(term: Term, max_response_tokens: int | None) -> Term:
    """Constants that are left to the run take its maximum response length."""
    aggregation, shaping = term.aggregation, []
    if isinstance(aggregation, SequenceSumOverConstant) and aggregation.constant is None:
        aggregation = SequenceSumOverConstant(_needed(max_response_tokens, "aggregation constant"))
    for part in term.shaping:
        if isinstance(part, SoftOverlong) and part.limit is None:
            limit = _needed(max_response_tokens, "soft_overlong limit")
            part = _construct("shaping.soft_overlong", SoftOverlong, {**vars(part), "limit": limit})
        shaping.append(part)
    return dataclasses.replace(term, aggregation=aggregation, shaping=tuple(shaping))


def _needed(max_response_tokens: int | None, what: str) -> float:
    if max_response_tokens is None:
        raise CompositionError(f"the {what} is not set and there is no maximum response length to take")
    return float(max_response_tokens)


def _check(term: Term) -> None:
    """Refuse parts that cannot act together."""
    current = term.denominator.is_current
    if current and not isinstance(term.mask, Keep):
        raise CompositionError(
            "a clip never acts with denominator `current`, whose ratio is always 1; "
            "use denominator `old` or mask `keep`"
        )
    if current and not term.granularity.is_token:
        raise CompositionError("granularity `sequence` has no effect with denominator `current`")
    if isinstance(term.denominator, Unit) and isinstance(term.mask, Clip | DualClip):
        raise CompositionError(
            "a clip around 1 has no meaning for denominator `unit`, whose ratio is pi itself"
        )
    if isinstance(term.advantage, Constant) and term.shaping:
        raise CompositionError("a shaping of the reward never acts with advantage `constant`")
    if term.rows == "demonstrations" and (term.advantage.needs_group or isinstance(term.advantage, Reward)):
        raise CompositionError("demonstrations have no reward; use advantage `constant`")
    if term.rows == "demonstrations" and term.denominator.signals:
        raise CompositionError("demonstrations have no old policy; use denominator `current` or `unit`")


def _nearest(word: str, known: Any) -> str:
    match = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (nearest: {match[0]!r})" if match else ""
