"""From a configuration's words to an Objective, or one clear reason why not.

{base: dapo, mask: {clip: {low: 0.2, high: 0.3}}, shaping: [{kl_in_reward: {coefficient: 0.03}}], kl: 0.001}
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rlpost.estimator.advantage import Constant, Reward
from rlpost.estimator.aggregation import SequenceSumOverConstant
from rlpost.estimator.algorithms import ALGORITHMS
from rlpost.estimator.denominator import Unit
from rlpost.estimator.mask import AllOf, Clip, DualClip, Keep
from rlpost.estimator.objective import Objective
from rlpost.estimator.parts import PARTS
from rlpost.estimator.regulariser import KL, Entropy, Regulariser
from rlpost.estimator.selection import D3S, KeepAll, MaxVariance, Selection, TopTokens
from rlpost.estimator.shaping import ACE, SoftOverlong
from rlpost.estimator.term import Term

TERM_AXES = ("advantage", "denominator", "granularity", "mask", "correction", "gate", "aggregation")
KEYS = ("base", *TERM_AXES, "shaping", "selection", "kl", "entropy")


WORDS = {float: "a number", int: "a whole number", bool: "true or false", type(None): "null"}


class CompositionError(ValueError):
    """The algorithm named in a configuration does not exist or its parts do not fit together."""


def build_objective(spec: Mapping[str, Any], *, max_response_tokens: int | None = None) -> Objective:
    """The objective that `spec` describes: a row of the table with some parts changed.

    Args:
        spec: `base` names a row; `advantage`, `denominator`, `granularity`, `mask`, `correction`,
            `gate`, `aggregation` and `selection` replace its parts, `shaping` is added to its own
            and replaces those of the same kind; `mask`, `correction`, `selection` and `shaping` may be
            lists, whose parts act in that order; `kl` and `entropy` are a coefficient or a mapping.
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
    changes: dict[str, Any] = {axis: _part_or_list(axis, spec[axis]) for axis in TERM_AXES if axis in spec}
    added = _several("shaping", spec.get("shaping", []))
    terms = []
    for term in row.terms:
        own = tuple(part for part in term.shaping if type(part) not in map(type, added))
        term = dataclasses.replace(term, **changes, shaping=(*own, *added))
        terms.append(_fill(term, max_response_tokens))
    selection = _several("selection", spec["selection"]) if "selection" in spec else row.selection
    selection = tuple(part for part in selection if not isinstance(part, KeepAll))
    objective = Objective(tuple(terms), selection, (*row.regularisers, *_regularisers(spec)))
    for term in objective.terms:
        _check(term)
    _check_selection(objective)
    return objective


def _part_or_list(axis: str, word: object) -> Any:
    """A term's part; several masks become one, corrections are always several."""
    if axis == "correction":
        return _several(axis, word)
    if axis == "mask" and isinstance(word, list | tuple):
        masks = _several(axis, word)
        return masks[0] if len(masks) == 1 else _construct(axis, AllOf, {"masks": masks})
    return _part(axis, word)


def _several(axis: str, words: object) -> tuple[Any, ...]:
    """One part or a list of them; the same kind twice is refused, unless its options differ."""
    listed = words if isinstance(words, list | tuple) else [words]
    parts = tuple(_part(axis, word) for word in listed)
    if len(set(parts)) < len(parts):
        raise CompositionError(f"{axis} holds the same part twice: {listed!r}")
    return parts


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
    hints = get_type_hints(kind)
    for key, value in options.items():
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise CompositionError(f"{where}: unknown option {key!r}{_nearest(key, fields)}; known: {known}")
        if kind is not AllOf and (kind is not KL or key != "kind") and not _fits(value, hints[key]):
            raise CompositionError(f"{where}.{key}: found {value!r}, needed {_spoken(hints[key])}")
    try:
        return kind(**options)
    except ValueError as error:
        raise CompositionError(f"{where}: {error}") from error


def _fits(value: object, hint: Any) -> bool:
    """Whether a configuration's value is of the type of an option."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_args(hint):
        return any(_fits(value, inner) for inner in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _spoken(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_args(hint):
        return " or ".join(_spoken(inner) for inner in get_args(hint))
    return WORDS.get(hint, str(hint))


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
    if isinstance(term.advantage, Constant) and any(isinstance(part, ACE) for part in term.shaping):
        raise CompositionError(
            "shaping `ace` weighs wrong responses, and advantage `constant` calls none wrong; "
            "use an advantage that compares rewards"
        )
    if isinstance(term.advantage, Constant) and term.shaping:
        raise CompositionError("a shaping of the reward never acts with advantage `constant`")
    if term.rows == "demonstrations" and (term.advantage.needs_group or isinstance(term.advantage, Reward)):
        raise CompositionError("demonstrations have no reward; use advantage `constant`")
    if term.rows == "demonstrations" and term.denominator.signals:
        raise CompositionError("demonstrations have no old policy; use denominator `current` or `unit`")


def _check_selection(objective: Objective) -> None:
    """Refuse selections that have nothing to choose from, or that choose twice."""
    if not objective.selection:
        return
    if all(term.rows == "demonstrations" for term in objective.terms):
        raise CompositionError(
            "a selection chooses among rollouts, and this objective trains on demonstrations alone; "
            "use selection `all`"
        )
    kinds = {type(part) for part in objective.selection}
    for kind, name in ((TopTokens, "top_tokens"), (MaxVariance, "max_variance")):
        if {D3S, kind} <= kinds:
            raise CompositionError(f"selection `d3s` does what `{name}` does; use one of the two")
    first = objective.terms[0]
    if isinstance(first.advantage, Constant) or first.rows == "demonstrations":
        for part in objective.selection:
            if _reads_advantages(part):
                raise CompositionError(
                    f"this selection ({part.formula}) compares the advantages of rollouts, and those of the "
                    "first term are constant; use an advantage that compares rewards"
                )


def _reads_advantages(part: Selection) -> bool:
    """Whether a selection has nothing to go by where all advantages are the same."""
    if isinstance(part, TopTokens):
        return part.score == "advantage_entropy"
    return isinstance(part, D3S | MaxVariance)


def _nearest(word: str, known: Any) -> str:
    match = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (nearest: {match[0]!r})" if match else ""
