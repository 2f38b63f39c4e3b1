"""The countdown reward: right and wrong expressions, and responses made to break it."""

import operator
import random
import string
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import countdown
from rewards.countdown import LONGEST, reward

GIVEN = {"numbers": [3, 5, 7], "answer": "22"}
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def joined(parts):
    """Two expressions and an operator as one expression: its text, its numbers, its value."""
    (left, ours, a), symbol, (right, theirs, b) = parts
    return f"({left}{symbol}{right})", ours + theirs, OPERATIONS[symbol.strip()](a, b)


EXPRESSIONS = st.recursive(
    st.integers(1, 99).map(lambda number: (str(number), [number], number)),
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", " * ", " - "]), inner).map(joined),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(EXPRESSIONS)
def test_any_expression_has_the_value_it_was_written_for(expression):
    text, numbers, value = expression
    assert reward(text, numbers, value)["score"] == 1.0
    assert reward(text, list(reversed(numbers)), str(value))["score"] == 1.0
    assert reward(text, numbers, value + 1)["score"] == 0.0
    assert reward(text, [*numbers, 1], value)["score"] == 0.0
    assert reward(text, numbers[1:], value)["score"] == 0.0


@pytest.mark.parametrize("text", ["7-3-2", "2*3+4*5", "9-2*4", "8-3+2", "1+2*3-4", "100/5/2", "2*(3+4)*5"])
def test_operators_bind_as_in_arithmetic(text):
    tokens = countdown.tokenize(text)
    assert countdown.evaluate(tokens) == eval(text)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("3*5", "uses [3, 5]"),
        ("3*5+7+7-7", "uses [3, 5, 7, 7, 7]"),
        ("22", "uses [22]"),
        ("3*5+7*1", "uses [1, 3, 5, 7]"),
        ("35-13", "uses [13, 35]"),
        ("3+5+7", "is 15"),
        ("3/5*7", "is 21/5"),
        ("3/(5-5)+7", "divides by zero"),
    ],
)
def test_a_wrong_expression_scores_zero_and_the_note_says_why(text, note):
    result = reward(text, **GIVEN)
    assert result["score"] == 0.0 and result["note"] == note
    assert "outcome" not in result


def test_each_number_counts_as_often_as_it_is_given():
    assert reward("4*4+4", [4, 4, 4], 20)["score"] == 1.0
    assert reward("4*4+4", [4, 4, 5], 20)["score"] == 0.0
    assert reward("4+4", [4, 4, 4], 8)["score"] == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "+",
        "3*",
        "*3",
        "-3+5",
        "3**5",
        "3 5*7",
        "3*5+7=22",
        "the answer is 3*5+7",
        "3*5+7)",
        "(3*5+7",
        "()",
        "(3)(5)",
        "3.0*5+7",
        "3*5+7;import os",
        "__import__('os')",
        "3*5+7\x00",
        "٣*5+7",
        "²",
        "１",
        "3−5",
    ],
)
def test_what_is_no_expression_is_unparseable(text):
    result = reward(text, **GIVEN)
    assert result["score"] == 0.0 and result["outcome"] == "unparseable"


@pytest.mark.parametrize(
    "text",
    [
        "(" * 10_000_000,
        "(" * LONGEST,
        "(" * (LONGEST // 2 - 3) + "3*5+7" + ")" * (LONGEST // 2 - 3),
        "9" * LONGEST,
        "9" * 10_000_000,
        "9*" * (LONGEST // 2 - 1) + "9",
        "1" + "/9" * (LONGEST // 2 - 1),
        "3*5+7" + " " * 10_000_000,
        "1+" * 5_000_000,
    ],
    ids=lambda text: f"{text[:6]!r} and more, {len(text)} characters",
)
def test_long_and_deep_responses_are_answered_without_a_crash(text):
    result = reward(text, **GIVEN)
    assert result["score"] == float(text.strip("()") == "3*5+7" and len(text) <= LONGEST)


def test_the_deepest_allowed_nesting_needs_a_small_part_of_the_stack():
    def below(depth):
        return below(depth - 1) if depth else reward("(" * LONGEST, **GIVEN)

    assert below(sys.getrecursionlimit() // 2)["outcome"] == "unparseable"


def test_random_text_never_raises_and_never_scores():
    draw = random.Random(0)
    alphabet = string.digits[:5] + "+-*/() "
    for _ in range(3000):
        text = "".join(draw.choices(alphabet, k=draw.randrange(20)))
        assert reward(text, numbers=[9, 9], answer=1)["score"] == 0.0


def test_the_gold_completion_is_found_where_there_is_one():
    for numbers, target in [([3, 5, 7], "22"), ([3, 3, 8, 8], 24), ([1, 1], 0), ([4], 4), ([1, 2, 3, 4], 36)]:
        text = countdown.gold_completion(numbers, target)
        assert reward(text, numbers, target)["score"] == 1.0
    with pytest.raises(ValueError, match=r"no expression of \[1, 1\] is 5"):
        countdown.gold_completion([1, 1], 5)
