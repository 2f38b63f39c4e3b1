r"""Votes: what counts as the same answer."""

import pytest

from rlpost.evaluation.answers import extract_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{5} or rather \boxed{ 7 }.", "7"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{x\right"),
        (r"\boxed{27.0}", "27"),
        (r"\boxed{025}", "25"),
        (r"\boxed{-3.50}", "-3.5"),
        (r"\boxed{1,234,567}", "1234567"),
        (r"\boxed{$12$}", "12"),
        ("1 + 1 = 2\n#### 2", "2"),
        ("#### 70,000\nThat is all.", "70000"),
        ("#### 1\nno, #### 3.", "3"),
        (r"#### 4 but \boxed{5}", "5"),
    ],
)
def test_the_last_marked_answer_is_taken_and_written_one_way(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "text", ["", "the answer is 5", r"\boxed{", r"\boxed{12", r"\boxed{ }", "####", "#### \n"]
)
def test_a_response_without_a_marked_answer_has_none(text):
    assert extract_answer(text) is None
