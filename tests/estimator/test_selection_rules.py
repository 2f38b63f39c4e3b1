"""Selections and ACE in a configuration: what builds, what is refused and why."""

from __future__ import annotations

import pytest

from rlpost.estimator import (
    ACE,
    ALGORITHMS,
    D3S,
    CompositionError,
    DropUniform,
    MaxVariance,
    OverlongFilter,
    SoftOverlong,
    TopTokens,
    build_objective,
)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"base": "sft", "selection": "drop_uniform"}, "this objective trains on demonstrations alone"),
        ({"base": "sft", "selection": "overlong_filter"}, "a selection chooses among rollouts"),
        (
            {"selection": ["d3s", "top_tokens"]},
            "selection `d3s` picks tokens by |A| H itself, so `top_tokens` would pick among its picks",
        ),
        ({"selection": ["top_tokens", "d3s"]}, "use one of the two"),
        ({"advantage": "constant", "selection": "d3s"}, "compares the advantages of rollouts"),
        ({"advantage": "constant", "selection": "max_variance"}, "use an advantage that compares rewards"),
        ({"advantage": "constant", "selection": "top_tokens"}, "those of the first term are constant"),
        ({"advantage": "constant", "shaping": ["ace"]}, "shaping `ace` weighs wrong responses"),
        ({"base": "sft", "shaping": ["ace"]}, "advantage `constant` calls none wrong"),
        ({"selection": ["d3s", "d3s"]}, "selection holds the same part twice"),
        ({"selection": "d3"}, "no selection 'd3' (nearest: 'd3s')"),
        ({"selection": "overlong"}, "(nearest: 'overlong_filter')"),
        ({"selection": "max_varience"}, "(nearest: 'max_variance')"),
        ({"selection": {"top_token": {}}}, "(nearest: 'top_tokens')"),
        ({"shaping": ["acee"]}, "no shaping 'acee' (nearest: 'ace')"),
        (
            {"selection": {"d3s": {"n_strat": 0.5}}},
            "selection.d3s: unknown option 'n_strat' (nearest: 'n_start')",
        ),
        (
            {"selection": {"d3s": {"scope": "prompt"}}},
            "selection.d3s.scope: found 'prompt', needed one of batch, group",
        ),
        ({"selection": {"d3s": {"k_start": 20}}}, "selection.d3s: k_start must lie in (0, 1], found 20"),
        ({"selection": {"top_tokens": {"score": "A"}}}, "needed one of advantage_entropy, entropy"),
        ({"selection": {"top_tokens": {"denominators": "keep"}}}, "needed one of kept, renewed"),
        ({"selection": {"overlong_filter": {"statistics": "drop"}}}, "needed one of kept, dropped"),
        ({"shaping": [{"ace": {"alpha": -1}}]}, "shaping.ace: alpha must be 0 or above, found -1"),
        ({"shaping": [{"ace": {"neutral": 1}}]}, "shaping.ace.neutral: found 1, needed true or false"),
    ],
    ids=str,
)
def test_a_selection_or_shaping_that_cannot_act_fails_with_the_reason(spec: dict, reason: str) -> None:
    with pytest.raises(CompositionError) as caught:
        build_objective(spec, max_response_tokens=50)
    assert reason in str(caught.value)


def test_ace_and_d3s_go_on_top_of_any_host() -> None:
    (grpo,) = build_objective({"base": "grpo", "shaping": [{"ace": {"alpha": 1.0}}]}).terms
    assert grpo.shaping == (ACE(1.0),)
    spec = {"base": "dapo", "shaping": [{"ace": {}}], "selection": {"d3s": {}}}
    dapo = build_objective(spec, max_response_tokens=50)
    assert dapo.terms[0].shaping == (SoftOverlong(limit=50.0), ACE())
    assert dapo.selection == (D3S(),)
    assert dapo.signals == {"old_logprob", "ref_logprob", "entropy"}
    dcpo = build_objective({"base": "dcpo", "shaping": ["ace"], "selection": "d3s"}, max_response_tokens=50)
    assert dcpo.terms[0].shaping == (ACE(),)
    assert dcpo.selection == (D3S(),)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["d3s", "drop_uniform"], (D3S(), DropUniform())),
        (["overlong_filter", {"max_variance": {"scope": "group"}}], (OverlongFilter(), MaxVariance("group"))),
        ([{"max_variance": {"scope": "group"}}, "d3s"], (MaxVariance("group"), D3S())),
        (["max_variance", "top_tokens"], (MaxVariance(), TopTokens())),
    ],
    ids=str,
)
def test_selections_are_chained_in_the_order_given(words: list, parts: tuple) -> None:
    assert build_objective({"base": "grpo", "selection": words}).selection == parts


def test_tokens_by_entropy_need_no_advantage_that_compares() -> None:
    spec = {"advantage": "constant", "selection": {"top_tokens": {"score": "entropy", "end": 0.2}}}
    assert build_objective(spec).selection == (TopTokens("entropy", end=0.2),)


def test_the_rows_are_their_hosts_with_a_selection() -> None:
    grpo, d3s, pods = (ALGORITHMS[name].objective for name in ("grpo", "d3s", "pods"))
    assert pods.terms == grpo.terms
    assert pods.selection == (MaxVariance("group", 0.25, 0.25),)
    assert build_objective({"base": "grpo", "aggregation": "token_mean", "selection": "d3s"}) == d3s


def test_formulas_name_the_shares() -> None:
    assert "25 % -> 100 % of the batch" in MaxVariance().formula
    assert "50 % of each group" in MaxVariance("group", 0.5, 0.5).formula
    assert "top 20 % by H, n_i kept" in TopTokens("entropy", 0.2, 0.2, "kept").formula
    assert "30 % of each group; top 20 % -> 90 % of its tokens" in D3S(0.3, 0.3, 0.2, 0.9, "group").formula
    assert "statistics dropped" in OverlongFilter("dropped").formula
    assert "1 + 0.5 (softplus(c_i) - ln 2)" in ACE(0.5, neutral=True).formula
    assert "sum_t" in ACE(normalise=False).formula
