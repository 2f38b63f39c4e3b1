"""Every part that a configuration can name keeps its protocol; the table's rows are complete."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
import torch
from estimator_batches import batch_of

import rlpost.estimator as core
from rlpost.estimator import (
    ALGORITHMS,
    KL,
    PARTS,
    AllGates,
    AllOf,
    Entropy,
    actions,
    advantage,
    aggregation,
    correction,
    denominator,
    gate,
    granularity,
    mask,
    regulariser,
    selection,
    shaping,
    transform,
)

PROTOCOLS: dict[str, type] = {
    "advantage": advantage.Advantage,
    "actions": actions.Actions,
    "denominator": denominator.Denominator,
    "granularity": granularity.Granularity,
    "mask": mask.Mask,
    "aggregation": aggregation.Aggregation,
    "correction": correction.Correction,
    "gate": gate.Gate,
    "shaping": shaping.Shaping,
    "selection": selection.Selection,
    "regulariser": regulariser.Regulariser,
    "transform": transform.GradientTransform,
}
NAMED = [(axis, name, kind) for axis, kinds in PARTS.items() for name, kind in kinds.items()]
ALL = [*NAMED, ("regulariser", "kl", KL), ("regulariser", "entropy", Entropy)]


def required(protocol: type) -> set[str]:
    """The names that a protocol asks for."""
    members = {n for n in vars(protocol) if not n.startswith("_")} | {"__call__"} & set(vars(protocol))
    return members | set(inspect.get_annotations(protocol))


@pytest.mark.parametrize(("axis", "name", "kind"), ALL, ids=[f"{a}.{n}" for a, n, _ in ALL])
def test_every_part_has_its_protocols_attributes_and_a_formula(axis: str, name: str, kind: Any) -> None:
    part = kind()
    missing = {attribute for attribute in required(PROTOCOLS[axis]) if not hasattr(part, attribute)}
    assert not missing
    assert part.formula.strip()
    assert "\n" not in part.formula
    assert kind.__doc__.strip()
    assert kind.__name__ in core.__all__


@pytest.mark.parametrize(("axis", "name", "kind"), ALL, ids=[f"{a}.{n}" for a, n, _ in ALL])
def test_every_part_is_frozen_and_equal_to_another_of_its_options(axis: str, name: str, kind: Any) -> None:
    part = kind()
    assert part == kind()
    assert hash(part) == hash(kind())
    for field in dataclasses.fields(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, field.name, 0)


def test_options_show_in_the_formula() -> None:
    assert PARTS["mask"]["clip"](0.1, 0.3).formula.count("1.3") == 1
    assert "0.9" in PARTS["mask"]["clip"](0.1, 0.3).formula
    assert "rho>7" in PARTS["mask"]["dual_clip"](ceiling=7.0).formula
    assert "clip(pi/pi_old, 0.5, 2)" in PARTS["denominator"]["clipped"](0.5, 2.0).formula
    assert "std_population(R) + 0.1" in PARTS["advantage"]["group_normalised"]("population", 0.1).formula
    assert PARTS["advantage"]["constant"](0.5).formula == "A = 0.5"
    assert "mean(R over the batch)" in PARTS["advantage"]["reward"]("batch").formula
    assert "C = 12" in PARTS["aggregation"]["sequence_sum_over_constant"](12.0).formula
    assert "C = max_response_tokens" in PARTS["aggregation"]["sequence_sum_over_constant"]().formula
    assert "mean_t" in PARTS["granularity"]["sequence"]("geometric").formula
    assert "sum_t" in PARTS["granularity"]["sequence"]("product").formula
    assert "L = 9, c = 3" in PARTS["shaping"]["soft_overlong"](9, 3).formula
    assert "0.2 sum_t" in PARTS["shaping"]["kl_in_reward"](0.2).formula
    advantages = PARTS["advantage"]
    assert "R over the batch) + 0.5" in advantages["batch_std"](epsilon=0.5).formula
    assert "mean(R) + 0.5" in advantages["maxrl"](0.5).formula
    assert "whiten_population" in advantages["group_centred_whitened"]("population").formula
    returns = advantages["token_return"](0.9, 0.25, "sample").formula
    assert all(word in returns for word in ("0.9 G_t+1", "0.25 log(pi_old/pi_ref)", "whiten_sample"))
    generalised = advantages["gae"](0.5, 0.5, 0.125, "population").formula
    assert all(word in generalised for word in ("0.5 V_t+1", "0.25 A'_t+1", "0.125 log", "whiten_population"))
    assert "weight of short = 0.25" in advantages["gdpo"]({"short": 0.25}).formula
    assert "k = 7" in advantages["pass_at_k"](7, 0.75).formula
    assert "R_i >= 0.75" in advantages["pass_at_k"](7, 0.75).formula
    assert "k = 3" in advantages["pkpo"](3).formula
    assert "without i" in advantages["pkpo"](3).formula
    assert "without i" not in advantages["pkpo"](3, "plain").formula
    assert "std_sample(R) + 1e-06" in advantages["best_minus_second"](True).formula
    assert "std_sample(R)" in advantages["smooth_normalised"]("sample").formula
    assert KL(0.5, "k2").formula == "+ 0.5 agg(k2(log pi - log pi_ref))"
    assert Entropy(0.5).formula == "- 0.5 agg(H_t)"


@pytest.mark.parametrize("name", PARTS["advantage"])
def test_every_advantage_gives_one_float64_number_a_token(name: str) -> None:
    signals = {signal: [-0.1] * 5 for signal in PARTS["advantage"][name]().signals}
    batch = batch_of([2, 0, 3], rewards=[1, 0, 0.5], **signals)
    found = PARTS["advantage"][name]()(batch)
    assert found.shape == (5,)
    assert found.dtype == torch.float64


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_row_says_what_it_is_and_where_it_is_published(name: str) -> None:
    row = ALGORITHMS[name]
    assert all((row.summary, row.source, row.certain, row.ours))
    assert not row.summary.endswith(".")
    parts = {type(p) for kinds in PARTS.values() for p in (kind() for kind in kinds.values())}
    for term in row.objective.terms:
        masks = term.mask.masks if isinstance(term.mask, AllOf) else (term.mask,)
        used = (term.advantage, term.denominator, term.granularity, *masks, term.aggregation)
        gates = term.gate.gates if isinstance(term.gate, AllGates) else (term.gate,)
        assert {
            type(p) for p in (*used, *gates, *term.shaping, *term.correction, *row.objective.selection)
        } <= parts


def test_public_names_exist_once() -> None:
    assert all(hasattr(core, name) for name in core.__all__)
    assert len(set(core.__all__)) == len(core.__all__)
