"""The chain task: right answers, levels, mistakes that are gone on with, splits that hold for all options."""

import re
from itertools import pairwise

import pytest

from rlpost.data.tasks import build_task
from rlpost.errors import ConfigError


def steps_of(response):
    """(letter, value, operator, digit, result) of each step."""
    return re.findall(r"([a-z])(\d)([-+*])(\d)(\d)", response)


def is_right(step, base):
    _, value, sign, digit, result = step
    value, digit = int(value), int(digit)
    return int(result) == {"+": value + digit, "-": value - digit, "*": value * digit}[sign] % base


def test_an_answer_works_every_step_out_with_the_letters_of_the_prompt():
    for base in (7, 10):
        task = build_task("chain", {"steps": 3, "operators": "+-*", "base": base, "size": 50})
        for row in task.rows("train", 0):
            found = steps_of(row["answer"])
            assert "".join(map("".join, found)) == row["answer"] == row["demonstration"]
            assert [row["prompt"][0], *(step[4] for step in found)][:-1] == [step[1] for step in found]
            asked = re.findall(r"([a-z])([-+*])(\d)", row["prompt"])
            assert asked == [(name, sign, digit) for name, _, sign, digit, _ in found]
            assert all(is_right(step, base) for step in found)
            assert len({name for name, *_ in found}) == 3


def test_levels_have_operators_and_steps_of_their_own_in_the_wanted_shares():
    options = {"hard_share": 0.25, "hard_steps": 4, "size": 400}
    rows = build_task("chain", options).rows("train", 0)
    hard = [row for row in rows if row["level"] == "hard"]
    assert 60 < len(hard) < 140 and {row["level"] for row in rows} == {"easy", "hard"}
    for row in rows:
        signs = "".join(step[2] for step in steps_of(row["answer"]))
        assert signs == "****" if row["level"] == "hard" else set(signs) <= {"+", "-"} and len(signs) == 2


def test_a_demonstration_errs_as_often_as_asked_and_goes_on_from_what_it_wrote():
    options = {"steps": 4, "mistakes": 0.25, "base": 7, "size": 300}
    wrong = 0
    for row in build_task("chain", options).rows("train", 1):
        shown = steps_of(row["demonstration"])
        assert all(before[4] == after[1] for before, after in pairwise(shown))
        assert all(int(result) < 7 for *_, result in shown)
        wrong += sum(not is_right(step, 7) for step in shown)
        assert all(is_right(step, 7) for step in steps_of(row["answer"]))
    assert 0.2 < wrong / 1200 < 0.3


def test_hard_rows_may_be_shown_with_mistakes_of_their_own():
    options = {"mistakes": 0.0, "hard_mistakes": 0.9, "hard_share": 0.5, "size": 100}
    for row in build_task("chain", options).rows("train", 1):
        assert (row["demonstration"] == row["answer"]) == (row["level"] == "easy")


def test_what_one_set_of_options_holds_out_no_other_trains_on():
    held_out = {row["prompt"] for row in build_task("chain", {"steps": 1}).rows("test", 0)}
    trained = build_task("chain", {"steps": 1, "mistakes": 0.5, "size": 1500}).rows("train", 3)
    assert len(held_out) == 128 and not held_out & {row["prompt"] for row in trained}


@pytest.mark.parametrize("operators", ["", "+/"])
def test_operators_are_known(operators):
    with pytest.raises(ConfigError, match=r"needs some of \+ - \*"):
        build_task("chain", {"operators": operators})


def test_more_rows_than_there_are_problems_are_refused():
    with pytest.raises(ConfigError, match="fewer problems than wanted"):
        build_task("chain", {"steps": 1, "operators": "+", "base": 2, "test_size": 100}).rows("test", 0)
