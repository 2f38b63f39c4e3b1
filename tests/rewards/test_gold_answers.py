"""Every gold answer of GSM8K, MATH-500, AIME 2024 and AMC 2023 is right however a model writes it."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest

from rewards import gsm8k, math_answer, numeric_match

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the datasets are not at hand")

IN_A_SENTENCE = [
    "So the answer is ${}$.",
    "Final Answer: The final answer is ${}$. I hope it is correct.",
    "Therefore the value is \\({}\\)",
    "Thus $$ {} $$",
    "This gives\n\\[\n{}\n\\]",
    "The answer is: {}",
    "**Final Answer**\n\n**Answer:** ${}$",
]
IN_A_BOX = [
    "Therefore\n\\[\n\\boxed{{{}}}\n\\]",
    "**Answer:** $\\boxed{{{}}}$",
    "Therefore, the answer is $\\boxed{{{}}}.$ This completes the second part.",
    "\\boxed{{${}$}}",
    "We first tried $\\boxed{{0.123}}$, which is wrong. The final answer is \\( \\boxed{{ {} }} \\).",
]
A_NUMBER = [
    "#### {}",
    "The answer is {}.",
    "So the total is {}",
    "**{}** in total",
    "The answer is **{}**.",
    "\\boxed{{{}}}",
    "$\\boxed{{{} \\text{{ apples}}}}$",
    "\\[\\boxed{{\\${}}}\\]",
    "The answer is {} apples.",
    "She pays ${}.",
    "He earns \\${} a week",
    "The answer is ${} in dollars",
    "Answer: {} km",
    "It weighs {} kg.",
]
NEEDS_ITS_MARKER = ("#### {}",)  # a way of GSM8K alone


def rows(*files):
    return [json.loads(line) for file in files for line in (DATA / file).read_text().splitlines()]


def failures(reward, cases):
    """(response, gold) of the cases that do not score 1.0."""
    scored = [(text, gold, reward(text, gold)) for text, gold in cases]
    return [(text, gold, result) for text, gold, result in scored if result["score"] != 1.0]


def number_spellings(number):
    """A number as a model may write it: with separators, as a decimal, as a fraction."""
    value = Fraction(number.replace(",", ""))
    whole = int(value) if value.denominator == 1 else None
    yield number
    if whole is not None:
        yield f"{whole:,}"
        yield str(whole)
        yield f"{whole}.00"
    yield f"{value.numerator * 2}/{value.denominator * 2}"
    minus = "-" if value < 0 else ""
    yield f"{minus}\\frac{{{abs(value.numerator) * 3}}}{{{value.denominator * 3}}}"


def gsm8k_golds(*files):
    return sorted({row["answer"].rpartition("####")[2].strip() for row in rows(*files)})


@pytest.mark.slow
def test_every_gold_answer_of_gsm8k_scores_one_however_it_is_written():
    found = rows("gsm8k/train.jsonl", "gsm8k/test.jsonl")
    assert len(found) == 8792
    cases = [
        (way.format(gold), row["answer"])
        for row in found
        for gold in [row["answer"].rpartition("####")[2].strip()]
        for way in A_NUMBER
    ]
    assert failures(gsm8k.reward, cases) == []


@pytest.mark.slow
@pytest.mark.parametrize("module", [gsm8k, numeric_match], ids=["gsm8k", "numeric_match"])
def test_every_number_of_gsm8k_scores_one_in_every_spelling(module):
    golds = gsm8k_golds("gsm8k/train.jsonl", "gsm8k/test.jsonl")
    assert len(golds) > 500
    cases = [
        (way.format(text), gold) for gold in golds for way in A_NUMBER for text in number_spellings(gold)
    ]
    assert failures(module.reward, cases) == []


@pytest.mark.slow
def test_every_number_of_gsm8k_scores_one_as_mathematics():
    cases = [
        (way.format(text), gold)
        for gold in gsm8k_golds("gsm8k/test.jsonl")[::4]
        for way in A_NUMBER
        if way not in NEEDS_ITS_MARKER
        for text in number_spellings(gold)
    ]
    assert failures(math_answer.reward, cases) == []


def test_no_gold_answer_of_gsm8k_scores_one_for_another_number():
    for row in rows("gsm8k/test.jsonl"):
        gold = row["answer"].rpartition("####")[2].strip().replace(",", "")
        for other in (int(gold) + 1, int(gold) * 10, -int(gold) - 1):
            assert gsm8k.reward(f"The answer is {other}.", row["answer"])["score"] == 0.0


@pytest.mark.parametrize("way", IN_A_BOX + IN_A_SENTENCE)
def test_every_gold_answer_of_math500_scores_one_in_a_box_and_in_a_sentence(way):
    golds = [row["answer"] for row in rows("math500/test.jsonl")]
    assert len(golds) == 500
    assert failures(math_answer.reward, [(way.format(gold), gold) for gold in golds]) == []


def equal_spellings(gold):
    """Other ways to write an answer of MATH-500 that mean the same."""
    yield gold.replace("\\frac", "\\dfrac")
    yield gold.replace("\\left", "").replace("\\right", "").replace(" ", "")
    yield f" {gold}. "
    fraction = re.fullmatch(r"(-?)\\d?frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))", gold)
    if fraction:
        minus, above, below = fraction[1], fraction[2] or fraction[3], fraction[4] or fraction[5]
        value = Fraction(int(above), int(below))
        yield f"{minus}{above}/{below}"
        yield f"{minus}\\frac{{{value.numerator * 2}}}{{{value.denominator * 2}}}"
        if 10**12 % value.denominator == 0:
            yield f"{minus}{float(value)!r}"
    if re.fullmatch(r"-?\d*\.?\d+", gold):
        yield from number_spellings(gold)
        yield f"{gold}\\text{{ units}}"
        yield f"{gold}^\\circ"
        yield f"\\${gold}"
        yield f"x = {gold}"
        yield f"\\text{{{gold}}}"
        yield f"\\mathbf{{{gold}}}"
    yield gold.removesuffix("^\\circ") + "\\text{ degrees}" if gold.endswith("\\circ") else gold
    yield gold.replace("\\$", "") + "\\text{ dollars}" if "$" in gold else gold
    yield gold.replace("pmatrix", "bmatrix")
    yield re.sub(r"\\text\{(.*?)\}", r"\1", gold)
    yield gold.replace(",\\!", "").replace(",\\! ", ",")
    yield re.sub(r"^(?:x=|y = |x \\in )", "", gold)
    yield re.sub(r"_\{?\d\}?$", "", gold)


@pytest.mark.slow
def test_every_gold_answer_of_math500_scores_one_in_other_spellings():
    golds = {row["answer"] for row in rows("math500/test.jsonl")}
    cases = {
        (way.format(text), gold)
        for gold in golds
        for text in equal_spellings(gold)
        for way in ("\\boxed{{{}}}", "The final answer is ${}$.")
    }
    assert len(cases) > 2000
    assert failures(math_answer.reward, sorted(cases)) == []


def test_several_boxes_are_one_answer():
    golds = [row["answer"] for row in rows("math500/test.jsonl")]
    lists = {gold for gold in golds if re.fullmatch(r"-?\d+(?:, ?-?\d+)+", gold)} - {"58,500"}
    assert lists == {"1,-2", "-2,1", "3, 5, 7"}
    for gold in lists:
        parts = [f"$\\boxed{{{part.strip()}}}$" for part in reversed(gold.split(","))]
        assert math_answer.reward(" and ".join(parts), gold)["score"] == 1.0
        assert math_answer.reward(parts[-1], gold)["score"] == 0.0


@pytest.mark.slow
def test_every_worked_solution_of_math500_scores_one():
    cases = [(row["solution"], row["answer"]) for row in rows("math500/test.jsonl")]
    assert failures(math_answer.reward, cases) == []


def test_every_gold_answer_of_math500_equals_itself_as_mathematics():
    answers = {row["answer"] for row in rows("math500/test.jsonl")}
    assert [a for a in answers if not math_answer.equal(a, math_answer.parse_latex(a))] == []


@pytest.mark.slow
def test_answers_of_other_problems_score_zero_unless_they_mean_the_same():
    answers = [row["answer"] for row in rows("math500/test.jsonl")]
    same = {
        frozenset(pair)
        for pair in [("x=5", "5"), (r"15\mbox{ cm}^2", "15"), ("40", "40_9"), (r"2\sqrt{5}", r"2 \sqrt{5}")]
    }
    same |= {frozenset((str(n), rf"{n}^\circ")) for n in range(1, 181)}
    surprises = [
        (response, gold)
        for shift in (1, 7, 31)
        for response, gold in zip(answers, answers[shift:] + answers[:shift], strict=True)
        if response != gold
        and frozenset((response, gold)) not in same
        and math_answer.reward(math_answer.gold_completion(response), gold)["score"] == 1.0
    ]
    assert surprises == []


@pytest.mark.parametrize(("file", "count"), [("aime24/test.jsonl", 30), ("amc23/test.jsonl", 40)])
@pytest.mark.parametrize("module", [math_answer, numeric_match], ids=["math", "numeric_match"])
def test_every_gold_answer_of_aime_and_amc_scores_one(file, count, module):
    found = rows(file)
    assert len(found) == count
    ways = IN_A_BOX + IN_A_SENTENCE + [way for way in A_NUMBER if way not in NEEDS_ITS_MARKER]
    cases = [
        (way.format(text), row["answer"])
        for row in found
        for text in {*number_spellings(str(row["answer"])), str(row["answer"])}
        for way in ways
    ]
    assert failures(module.reward, cases) == []
