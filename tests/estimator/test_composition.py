"""From words to an objective: what fits together, what does not and why, and how it reads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rlpost.estimator import (
    ALGORITHMS,
    KL,
    Clip,
    CompositionError,
    DropUniform,
    Entropy,
    GroupNormalised,
    KLInReward,
    LeaveOneOut,
    Old,
    SequenceMeanTokenMean,
    SequenceRatio,
    SequenceSumOverConstant,
    SoftOverlong,
    TokenMean,
    build_objective,
)

NAN = float("nan")


def readable(value):
    """A test id that is the same in every process, which a set's own order is not."""
    return f"{{{', '.join(sorted(value))}}}" if isinstance(value, (set, frozenset)) else str(value)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"algorithm": "grpo"}, "unknown key 'algorithm'"),
        ({"advantge": "leave_one_out"}, "unknown key 'advantge' (nearest: 'advantage')"),
        ({1: 2}, "unknown key 1"),
        ({"base": "grop"}, "no algorithm 'grop' (nearest: 'grpo'); see `rlpost algorithms`"),
        ({"base": ["grpo"]}, "no algorithm ['grpo']"),
        ({"base": None}, "no algorithm None"),
        ({"mask": "clipp"}, "no mask 'clipp' (nearest: 'clip'); known: keep, clip, dual_clip"),
        ({"mask": 3}, "mask must be a name or {name: {option: value}}, found 3"),
        ({"mask": {"clip": {}, "keep": {}}}, "mask must be a name"),
        ({"mask": {"clip": [0.2]}}, "mask.clip: options must be a mapping, found [0.2]"),
        (
            {"mask": {"clip": {"hihg": 0.2}}},
            "mask.clip: unknown option 'hihg' (nearest: 'high'); known: low, high",
        ),
        ({"granularity": {"token": {"x": 1}}}, "granularity.token: unknown option 'x'; known: none"),
        ({"mask": {"clip": {"low": "0.2"}}}, "mask.clip.low: found '0.2', needed a number"),
        ({"mask": {"clip": {"low": True}}}, "mask.clip.low: found True, needed a number"),
        ({"mask": {"clip": {"low": [0.2]}}}, "mask.clip.low: found [0.2], needed a number"),
        ({"mask": {"clip": {"low": None}}}, "mask.clip.low: found None, needed a number"),
        ({"mask": {"dual_clip": {"ceiling": NAN}}}, "mask.dual_clip.ceiling: found nan, needed a number"),
        ({"mask": {"clip": {"low": 0}}}, "mask.clip: low must lie in (0, 1]"),
        ({"mask": {"clip": {"low": 1.5}}}, "mask.clip: low must lie in (0, 1]"),
        ({"mask": {"clip": {"high": -0.1}}}, "and high above 0, found 0.2 and -0.1"),
        ({"mask": {"dual_clip": {"ceiling": 1.1}}}, "ceiling must exceed 1 + high = 1.2, found 1.1"),
        ({"mask": {"dual_clip": {"low": -1}}}, "mask.dual_clip: low must lie in (0, 1]"),
        ({"denominator": {"clipped": {"low": 1.1}}}, "the band [1.1, 5] must hold 1"),
        ({"denominator": {"clipped": {"high": 0.9}}}, "the band [0, 0.9] must hold 1"),
        ({"denominator": {"clipped": {"low": -0.1}}}, "start at 0 or above"),
        (
            {"advantage": {"group_normalised": {"std": "biased"}}},
            "advantage.group_normalised.std: found 'biased', needed one of sample, population",
        ),
        ({"advantage": {"group_normalised": {"std": 1}}}, "advantage.group_normalised.std: found 1"),
        ({"advantage": {"group_normalised": {"epsilon": -1}}}, "epsilon must be 0 or above, found -1"),
        ({"advantage": {"reward": {"baseline": "group"}}}, "needed one of none, batch"),
        ({"granularity": {"sequence": {"mean": "sum"}}}, "needed one of geometric, product"),
        (
            {"aggregation": {"sequence_sum_over_constant": {"constant": 0}}},
            "aggregation.sequence_sum_over_constant: constant must be positive, found 0",
        ),
        ({"shaping": [3]}, "shaping must be a name"),
        (
            {"shaping": [{"soft_overlong": {"limit": 10, "cache": 11}}]},
            "shaping.soft_overlong: cache must lie in (0, limit = 10], found 11",
        ),
        ({"shaping": [{"soft_overlong": {"limit": -1}}]}, "limit must be positive, found -1"),
        (
            {"shaping": [{"soft_overlong": {"cache": 99}}]},
            "shaping.soft_overlong: cache must lie in (0, limit = 50], found 99",
        ),
        ({"selection": "all_of_them"}, "no selection 'all_of_them'"),
        ({"kl": "k3"}, "kl.coefficient: found 'k3', needed a number"),
        ({"kl": True}, "kl.coefficient: found True, needed a number"),
        ({"kl": NAN}, "kl.coefficient: found nan, needed a number"),
        ({"kl": -0.1}, "kl: coefficient must be 0 or above, found -0.1"),
        ({"kl": {"kind": "k1"}}, "k1 has expected gradient 0 as a loss, it belongs in the reward"),
        ({"entropy": {"bonus": 1}}, "entropy: unknown option 'bonus'; known: coefficient"),
        (
            {"base": "reinforce", "mask": "clip"},
            "a clip never acts with denominator `current`, whose ratio is always 1",
        ),
        ({"denominator": "current"}, "a clip never acts with denominator `current`"),
        (
            {"base": "reinforce", "granularity": "sequence"},
            "granularity `sequence` has no effect with denominator `current`",
        ),
        ({"denominator": "unit"}, "a clip around 1 has no meaning for denominator `unit`"),
        ({"denominator": "unit", "mask": "dual_clip"}, "a clip around 1 has no meaning"),
        ({"base": "sft", "advantage": "group_centred"}, "demonstrations have no reward"),
        ({"base": "sft", "advantage": "reward"}, "demonstrations have no reward; use advantage `constant`"),
        ({"base": "sft", "denominator": "old"}, "demonstrations have no old policy"),
        ({"base": "sft", "denominator": "behaviour"}, "use denominator `current` or `unit`"),
        ({"base": "sft", "shaping": ["soft_overlong"]}, "a shaping of the reward never acts"),
        ({"advantage": "constant", "shaping": ["kl_in_reward"]}, "a shaping of the reward never acts"),
        ({"base": "gdpo", "shaping": ["kl_in_reward"]}, "never acts with advantage `gdpo`"),
        (
            {"advantage": {"gdpo": {"weights": {"format": "high"}}}},
            "advantage.gdpo.weights: found {'format': 'high'}, needed names with a number each",
        ),
        ({"advantage": {"gdpo": {"weights": 2}}}, "advantage.gdpo.weights: found 2, needed names"),
        (
            {"advantage": {"token_return": {"kl": 0.1}}, "shaping": ["kl_in_reward"]},
            "shaping `kl_in_reward` would take the KL off the reward again",
        ),
        ({"advantage": {"gae": {"kl": 0.1}}, "shaping": ["kl_in_reward"]}, "set the advantage's kl to 0"),
        ({"advantage": {"gae": {"lam": 2}}}, "advantage.gae: lam must lie in [0, 1], found 2"),
        ({"advantage": {"pkpo": {"k": 0}}}, "advantage.pkpo: k must be 1 or above, found 0"),
        ({"advantage": {"pass_at_k": {"k": 1.5}}}, "advantage.pass_at_k.k: found 1.5, needed a whole number"),
        ({"base": "sft", "advantage": "gae"}, "demonstrations have no reward; use advantage `constant`"),
        ({"base": "sft", "advantage": "greedy_baseline"}, "demonstrations have no reward"),
    ],
    ids=readable,
)
def test_an_invalid_composition_fails_with_the_reason(spec: dict, reason: str) -> None:
    with pytest.raises(CompositionError) as caught:
        build_objective(spec, max_response_tokens=50)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ({"base": "dr_grpo"}, "aggregation constant"),
        ({"base": "dapo"}, "soft_overlong limit"),
    ],
)
def test_a_constant_left_to_the_run_needs_a_maximum_response_length(spec: dict, what: str) -> None:
    with pytest.raises(CompositionError, match=f"the {what} is not set and there is no maximum"):
        build_objective(spec)


def test_the_base_is_grpo_when_none_is_named() -> None:
    assert build_objective({}) == ALGORITHMS["grpo"].objective


@pytest.mark.parametrize("name", ["sft", "reinforce", "rloo", "grpo"])
def test_a_bare_row_is_the_row_of_the_table(name: str) -> None:
    assert build_objective({"base": name}) == ALGORITHMS[name].objective


def test_words_replace_the_rows_parts_one_by_one() -> None:
    objective = build_objective(
        {
            "base": "grpo",
            "advantage": {"leave_one_out": {}},
            "granularity": "sequence",
            "mask": {"clip": {"low": 3e-4, "high": 4e-4}},
            "aggregation": "token_mean",
            "selection": "drop_uniform",
            "kl": {"coefficient": 0.04, "kind": "k3+"},
            "entropy": 0.001,
        }
    )
    (term,) = objective.terms
    assert term.advantage == LeaveOneOut()
    assert term.denominator == Old()
    assert term.granularity == SequenceRatio("geometric")
    assert term.mask == Clip(3e-4, 4e-4)
    assert term.aggregation == TokenMean()
    assert objective.selection == (DropUniform(),)
    assert objective.regularisers == (KL(0.04, "k3+"), Entropy(0.001))


def test_words_that_are_not_given_keep_the_rows_parts() -> None:
    (term,) = build_objective({"base": "grpo", "mask": "keep"}).terms
    assert term.advantage == GroupNormalised("sample", 1e-6)
    assert term.aggregation == SequenceMeanTokenMean()


def test_constants_left_to_the_run_take_its_maximum_response_length() -> None:
    (dr_grpo,) = build_objective({"base": "dr_grpo"}, max_response_tokens=300).terms
    (dapo,) = build_objective({"base": "dapo"}, max_response_tokens=300).terms
    assert dr_grpo.aggregation == SequenceSumOverConstant(300.0)
    assert dapo.shaping == (SoftOverlong(limit=300.0),)


def test_a_constant_that_is_given_stays_as_it_is() -> None:
    spec = {"base": "dr_grpo", "aggregation": {"sequence_sum_over_constant": {"constant": 7}}}
    (term,) = build_objective(spec, max_response_tokens=300).terms
    assert term.aggregation == SequenceSumOverConstant(7)


def test_shapings_are_added_and_one_of_the_same_kind_replaces_the_rows() -> None:
    spec = {"base": "dapo", "shaping": ["kl_in_reward", {"soft_overlong": {"cache": 10}}]}
    (term,) = build_objective(spec, max_response_tokens=50).terms
    assert term.shaping == (KLInReward(), SoftOverlong(limit=50.0, cache=10))
    (kept,) = build_objective({"base": "dapo", "shaping": ["kl_in_reward"]}, max_response_tokens=50).terms
    assert kept.shaping == (SoftOverlong(limit=50.0), KLInReward())


@pytest.mark.parametrize("off", [0, 0.0, None])
def test_a_coefficient_of_zero_leaves_the_regulariser_and_its_signal_out(off: object) -> None:
    objective = build_objective({"base": "grpo", "kl": off, "entropy": off})
    assert objective.regularisers == ()
    assert objective.signals == {"old_logprob"}
    assert not objective.needs_entropy_gradient


@pytest.mark.parametrize(
    ("spec", "signals", "needs_group", "needs_entropy_gradient"),
    [
        ({"base": "sft"}, set(), False, False),
        ({"base": "reinforce"}, set(), False, False),
        ({"base": "rloo"}, set(), True, False),
        ({"base": "grpo"}, {"old_logprob"}, True, False),
        ({"base": "grpo", "kl": 0.1}, {"old_logprob", "ref_logprob"}, True, False),
        ({"base": "grpo", "denominator": "behaviour"}, {"behaviour_logprob"}, True, False),
        ({"base": "rloo", "shaping": ["kl_in_reward"]}, {"old_logprob", "ref_logprob"}, True, False),
        ({"base": "reinforce", "entropy": 0.1}, set(), False, True),
        ({"base": "remax"}, set(), False, False),
        ({"base": "reinforce_pp"}, {"old_logprob"}, False, False),
        (
            {"base": "reinforce_pp", "advantage": {"token_return": {"kl": 0.1}}},
            {"old_logprob", "ref_logprob"},
            False,
            False,
        ),
        ({"base": "opo", "advantage": "gae"}, {"value"}, False, False),
        ({"base": "dcpo"}, {"old_logprob"}, False, False),
        ({"base": "pkpo"}, set(), True, False),
    ],
    ids=readable,
)
def test_an_objective_declares_exactly_what_it_needs(
    spec: dict, signals: set, needs_group: bool, needs_entropy_gradient: bool
) -> None:
    objective = build_objective(spec)
    assert objective.signals == signals
    assert objective.needs_group is needs_group
    assert objective.needs_entropy_gradient is needs_entropy_gradient


@pytest.mark.parametrize(
    ("base", "known"),
    [
        ("remax", {"greedy_reward"}),
        ("gdpo", {"reward_parts"}),
        ("dcpo", {"prompt_visits", "prompt_samples", "prompt_mean", "prompt_variance"}),
        ("grpo", set()),
    ],
)
def test_an_objective_declares_what_the_driver_must_know_of_a_sequence(base: str, known: set) -> None:
    assert build_objective({"base": base}).sequence_signals == known


@pytest.mark.parametrize(
    ("spec", "signals"),
    [
        ({"base": "grpo"}, set()),
        ({"base": "grpo", "denominator": "clipped", "mask": "keep"}, set()),
        ({"base": "grpo", "denominator": "behaviour", "kl": 0.1}, {"behaviour_logprob", "ref_logprob"}),
        ({"base": "grpo", "shaping": ["kl_in_reward"]}, {"old_logprob", "ref_logprob"}),
    ],
    ids=readable,
)
def test_on_policy_a_ratio_needs_no_old_log_prob_but_the_kl_in_the_reward_does(
    spec: dict, signals: set
) -> None:
    assert build_objective(spec).signals_for(on_policy=True) == signals


GRPO_IN_WORDS = """\
selection    all sequences
advantage    A_i = (R_i - mean(R)) / (std_sample(R) + 1e-06)
denominator  pi_den = pi_old
granularity  rho_t = pi_t / pi_den,t
mask         m = 0 iff (A>0 and rho>1.2) or (A<0 and rho<0.8)
aggregation  mean_i (1/n_i) sum_t L
loss_t = - m_t A_t exp(log pi_t - log pi_den,t), gradient through log pi_t only"""

DAPO_IN_WORDS = """\
selection    groups with max(R) > min(R), refilled in at most 8 rounds
shaping      R_i <- R_i - 1 clip((n_i - L + c)/c, 0, 1), L = 100, c = L/5
advantage    A_i = (R_i - mean(R)) / (std_sample(R) + 1e-06)
denominator  pi_den = pi_old
granularity  rho_t = pi_t / pi_den,t
mask         m = 0 iff (A>0 and rho>1.28) or (A<0 and rho<0.8)
aggregation  sum_it L / sum_i n_i
regulariser  + 0.001 agg(k3(log pi - log pi_ref))
regulariser  - 0.01 agg(H_t)
loss_t = - m_t A_t exp(log pi_t - log pi_den,t), gradient through log pi_t only"""


@pytest.mark.parametrize(
    ("spec", "words"),
    [({"base": "grpo"}, GRPO_IN_WORDS), ({"base": "dapo", "kl": 0.001, "entropy": 0.01}, DAPO_IN_WORDS)],
    ids=["grpo", "dapo"],
)
def test_an_objective_reads_as_a_list_of_its_parts(spec: dict, words: str) -> None:
    assert build_objective(spec, max_response_tokens=100).describe() == words


def test_importing_the_core_loads_nothing_else_of_the_package_and_no_heavy_library() -> None:
    program = (
        "import sys, rlpost.estimator\n"
        "own = [m for m in sys.modules if m.split('.')[0] in ('rlpost', 'rewards')]\n"
        "heavy = {'transformers', 'ray', 'datasets', 'pydantic', 'vllm', 'plotly'} & set(sys.modules)\n"
        "print(sorted(m for m in own if not m.startswith('rlpost.estimator')), sorted(heavy))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert found.stdout.strip() == "['rlpost'] []"
