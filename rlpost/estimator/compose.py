"""From a configuration's words to an Objective, or one clear reason why not.

{base: dapo, mask: {clip: {low: 0.2, high: 0.3}}, shaping: [{kl_in_reward: {coefficient: 0.03}}], kl: 0.001}
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rlpost.estimator.aggregation import PromptMean, SequenceSumOverConstant
from rlpost.estimator.algorithms import ALGORITHMS
from rlpost.estimator.checks import CompositionError, check_objective
from rlpost.estimator.gate import AllGates
from rlpost.estimator.mask import AllOf
from rlpost.estimator.objective import Objective
from rlpost.estimator.parts import PARTS, find_part
from rlpost.estimator.regulariser import KL, Entropy, Regulariser
from rlpost.estimator.selection import KeepAll
from rlpost.estimator.shaping import SoftOverlong
from rlpost.estimator.term import Term
from rlpost.estimator.transform import Untransformed

TERM_AXES = (
    *("advantage", "actions", "denominator", "granularity"),
    *("mask", "correction", "gate", "aggregation"),
)
TERM_KEYS = (*TERM_AXES, "shaping", "rows", "compared_with", "weight")
"""What `terms: {NAME: ...}` may say of one term."""
NEEDED_AXES = ("advantage", "denominator", "aggregation")
"""What a term that the row does not have must say."""
KEYS = ("base", *TERM_AXES, "shaping", "terms", "selection", "kl", "entropy", "transform")


WORDS = {float: "a number", int: "a whole number", bool: "true or false", type(None): "null"}


def build_objective(spec: Mapping[str, Any], *, max_response_tokens: int | None = None) -> Objective:
    """The objective that `spec` describes: a row of the table with some parts changed.

    Args:
        spec: `base` names a row; `advantage`, `denominator`, `granularity`, `mask`, `correction`,
            `gate`, `aggregation` and `selection` replace its parts, `shaping` is added to its own
            and replaces those of the same kind; `mask`, `correction`, `selection` and `shaping` may be
            lists, whose parts act in that order; `kl` and `entropy` are a coefficient or a mapping;
            `transform` replaces the row's, `none` takes it away. `terms` holds the same, `rows`, `weight` and
            `compared_with` for single terms by name: it changes a term that the row has, adds one
            that it has not, and null takes one away.
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
    terms = [_fill(term, max_response_tokens) for term in _terms(name, row, spec)]
    selection = _several("selection", spec["selection"]) if "selection" in spec else row.selection
    selection = tuple(part for part in selection if not isinstance(part, KeepAll))
    transform = _part("transform", spec["transform"]) if "transform" in spec else row.transform
    transform = None if isinstance(transform, Untransformed) else transform
    regularisers = (*row.regularisers, *_regularisers(spec))
    objective = Objective(tuple(terms), selection, regularisers, transform)
    check_objective(objective)
    return objective


def _terms(name: str, row: Objective, spec: Mapping[str, Any]) -> list[Term]:
    """The row's terms, changed by the keys of the whole algorithm or by those of single terms."""
    single = {} if spec.get("terms") is None else spec["terms"]
    if not isinstance(single, Mapping):
        raise CompositionError(f"`terms` must be a mapping of names, found {single!r}")
    shared = {key: spec[key] for key in (*TERM_AXES, "shaping") if key in spec}
    if shared and len(row.terms) > 1:
        key, labels = next(iter(shared)), [term.label for term in row.terms]
        raise CompositionError(
            f"`{name}` has {len(labels)} terms, {' and '.join(labels)}; say which `{key}` is meant, such as "
            f"terms: {{{labels[0]}: {{{key}: ...}}}}"
        )
    terms = {term.label: _changed(term, shared) for term in row.terms}
    for label, changes in single.items():
        if changes is None:
            if terms.pop(label, None) is None:
                raise CompositionError(f"terms.{label}: `{name}` has no such term{_nearest(label, terms)}")
        elif not isinstance(changes, Mapping):
            raise CompositionError(f"terms.{label}: needed a mapping, or null, found {changes!r}")
        else:
            terms[label] = _one_term(label, terms.get(label), changes)
    if not terms:
        raise CompositionError(f"no term is left of `{name}`")
    return list(terms.values())


def _one_term(label: str, own: Term | None, changes: Mapping[str, Any]) -> Term:
    """A term of the row with some parts changed, or a new one."""
    for key in changes:
        if key not in TERM_KEYS:
            known = ", ".join(TERM_KEYS)
            raise CompositionError(
                f"terms.{label}: unknown key {key!r}{_nearest(key, TERM_KEYS)}; known: {known}"
            )
    hints = get_type_hints(Term)
    options = {key: changes[key] for key in ("rows", "compared_with", "weight") if key in changes}
    for key, value in options.items():
        if not _fits(value, hints[key]):
            raise CompositionError(f"terms.{label}.{key}: found {value!r}, needed {_spoken(hints[key])}")
    if own is not None:
        return dataclasses.replace(_changed(own, changes), **options)
    if lacking := [axis for axis in NEEDED_AXES if axis not in changes]:
        raise CompositionError(f"terms.{label} is new to this row, and lacks {', '.join(lacking)}")
    if label in get_args(hints["rows"]):
        options.setdefault("rows", label)
    parts = {axis: _part_or_list(axis, changes[axis]) for axis in TERM_AXES if axis in changes}
    shaping = _several("shaping", changes.get("shaping", []))
    return Term(**parts, shaping=shaping, name=label, **options)


def _changed(term: Term, spec: Mapping[str, Any]) -> Term:
    """The term with the parts that `spec` names; shapings are added, and replace those of their kind."""
    changes = {axis: _part_or_list(axis, spec[axis]) for axis in TERM_AXES if axis in spec}
    added = _several("shaping", spec.get("shaping", []))
    own = tuple(part for part in term.shaping if type(part) not in map(type, added))
    return dataclasses.replace(term, **changes, shaping=(*own, *added))


def _part_or_list(axis: str, word: object) -> Any:
    """A term's part; several masks or gates become one, corrections are always several."""
    if axis == "correction":
        return _several(axis, word)
    if axis in ("mask", "gate") and isinstance(word, list | tuple):
        parts = _several(axis, word)
        if len(parts) == 1:
            return parts[0]
        return AllOf(parts) if axis == "mask" else AllGates(parts)
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
    kind = find_part(axis, str(name))
    if kind is None:
        known = PARTS[axis]
        raise CompositionError(f"no {axis} {name!r}{_nearest(str(name), known)}; known: {', '.join(known)}")
    return _construct(f"{axis}.{name}", kind, {} if options is None else options)


def _construct(where: str, kind: type[Any], options: object) -> Any:
    if not isinstance(options, Mapping):
        raise CompositionError(f"{where}: options must be a mapping, found {options!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    for key, value in options.items():
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise CompositionError(f"{where}: unknown option {key!r}{_nearest(key, fields)}; known: {known}")
        if not _fits(value, hints[key]):
            raise CompositionError(f"{where}.{key}: found {value!r}, needed {_spoken(hints[key])}")
    try:
        return kind(**options)
    except ValueError as error:
        raise CompositionError(f"{where}: {error}") from error


def _fits(value: object, hint: Any) -> bool:
    """Whether a configuration's value is of the type of an option."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, list | tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    if get_origin(hint) is Mapping:
        number = get_args(hint)[1]
        return isinstance(value, Mapping) and all(
            isinstance(k, str) and _fits(v, number) for k, v in value.items()
        )
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
    if get_origin(hint) is tuple:
        return f"a list, {_spoken(get_args(hint)[0])} each"
    if get_origin(hint) is Mapping:
        return f"names with {_spoken(get_args(hint)[1])} each"
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
    if isinstance(aggregation, PromptMean) and aggregation.lacks_constant:
        constant = _needed(max_response_tokens, "aggregation constant")
        aggregation = dataclasses.replace(aggregation, constant=constant)
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


def _nearest(word: str, known: Any) -> str:
    match = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (nearest: {match[0]!r})" if match else ""
