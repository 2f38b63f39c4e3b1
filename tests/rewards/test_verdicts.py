"""Verdicts on curated pairs: wrong but similar, right but written otherwise, and math-verify's own."""

from importlib import import_module
from pathlib import Path

import pytest
import yaml

import rewards
from rewards import math_answer


def curated(name):
    return yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8"))


WRONG = curated("wrong_pairs.yaml")
RIGHT = curated("right_spellings.yaml")
CASES = curated("math_verify_cases.yaml")


def scored(name, answer, completion, options=None):
    module = import_module(f"rewards.{rewards.ALIASES.get(name, name)}")
    return module.reward(completion=completion, answer=answer, **(options or {}))["score"]


def math_verify(gold, response):
    from math_verify import parse, verify

    parsed = [parse(f"${text}$", parsing_timeout=None) for text in (gold, rf"\boxed{{{response}}}")]
    return verify(*parsed, timeout_seconds=None)


def test_there_are_many_wrong_pairs_and_each_once():
    pairs = [(name, *map(str, pair)) for name, kinds in WRONG.items() for ps in kinds.values() for pair in ps]
    assert len(pairs) == len(set(pairs)) >= 270


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in WRONG.items() for kind in kinds])
def test_a_wrong_but_similar_answer_scores_zero(name, kind):
    assert [pair for pair in WRONG[name][kind] if scored(name, *pair) != 0.0] == []


@pytest.mark.parametrize("kind", RIGHT)
def test_a_right_answer_scores_one_in_the_ways_that_models_write_it(kind):
    pairs = [(gold, text) for gold, texts in RIGHT[kind].items() for text in texts]
    assert [pair for pair in pairs if scored("math", pair[0], rf"\boxed{{{pair[1]}}}") != 1.0] == []


@pytest.mark.parametrize("kind", CASES)
def test_math_verdicts_are_those_of_math_verify_but_for_the_listed_ones(kind):
    for gold, response, equal in CASES[kind]:
        ours = scored("math", gold, rf"\boxed{{{response}}}") == 1.0
        theirs = math_verify(gold, response)
        assert (ours, theirs) == (equal, equal != (kind == "ours alone")), (gold, response)


@pytest.mark.parametrize(
    ("completion", "gold"),
    [
        (r"The roots are $\boxed{1}$ and $\boxed{-2}$.", "1,-2"),
        (r"$x=\boxed{1}$ or $x=\boxed{-2}$", "-2,1"),
        (r"\boxed{5} so \boxed{5}", "5"),
        (r"\boxed{5}, \boxed{5}", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"The answer is $\frac{1}{2}$ of the cake.", r"\frac12"),
        ("The answer is 15 square meters", "15"),
        ("Answer:\n\\[\nx = 42\n\\]", "42"),
        (r"The answer is \$18.90 per hour.", r"\$18.90"),
        ("The answer is 3.5. Done", "3.5"),
        ("so $x = 41$ and thus 42 apples", "42"),
        ("The correct answer is **C**", r"\text{(C)}"),
        ("The answer is Evelyn.", r"\text{Evelyn}"),
        ("the answers are 1 and -2.", "1,-2"),
        ("The answer is 42 (not 41).", "42"),
        ("The answer is minus 5.", "-5"),
        ("The answer is 2 sqrt(3).", r"\sqrt{12}"),
        ("The answer is 12 pi", r"12\pi"),
        ("The answer is π/6.", r"\frac{\pi}{6}"),
        ("The answer is x ≤ 0.", r"(-\infty, 0]"),
        ("The answer is not $41$, it is clear that the answer is $42$", "42"),
        ("We have $7$. " * 1000 + "The answer is $42$.", "42"),
    ],
)
def test_the_answer_of_a_whole_response_is_found(completion, gold):
    assert math_answer.reward(completion, gold)["score"] == 1.0


@pytest.mark.parametrize("name", ["gsm8k", "math_answer", "multiple_choice", "numeric_match"])
@pytest.mark.parametrize(
    "piece",
    [
        "\\boxed{",
        "\\boxed{}",
        "$",
        "$$",
        "**",
        "answer is ",
        " ",
        "\n",
        "9",
        "1 ",
        "7/",
        "1,",
        "{",
        "}",
        "(",
        "A, ",
    ],
)
def test_a_response_that_repeats_itself_is_judged_and_right_for_no_answer(name, piece):
    answer = "B" if name == "multiple_choice" else "42"
    assert scored(name, answer, piece * (30_000 // len(piece))) == 0.0
