"""The countdown task: right demonstrations, disjoint splits, seeds, options."""

import re
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.countdown import reward
from rlpost.data.tasks import build_task
from rlpost.errors import ConfigError

HELD_OUT_FIRST = ["866=4:", "854=1:", "535=22:", "791=17:", "353=12:"]


def problem(row):
    """What must not be in two splits: the numbers in any order, and the target."""
    return (*sorted(row["numbers"]), int(row["answer"]))


def both_splits(task, seed=0):
    return task.rows("train", seed) + task.rows("test", 0)


@pytest.mark.parametrize("options", [{}, {"numbers": 2, "size": 100, "test_size": 50}, {"numbers": 4}])
def test_every_demonstration_scores_one_and_holds_only_allowed_operators(options):
    for row in both_splits(build_task("countdown", options)):
        assert reward(row["demonstration"], row["numbers"], row["answer"])["score"] == 1.0
        assert re.fullmatch(r"[1-9]([-+*][1-9])+", row["demonstration"])


def test_the_prompt_shows_the_numbers_and_the_target():
    for row in both_splits(build_task("countdown", {})):
        assert row["prompt"] == f"{''.join(map(str, row['numbers']))}={row['answer']}:"
        assert len(row["numbers"]) == 3 and 1 <= int(row["answer"]) <= 50


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(-(2**70), 2**70),
    highest=st.integers(20, 90),
    operators=st.sampled_from(["+-*", "+*", "*-", "+-"]),
    test_size=st.integers(1, 60),
)
def test_no_held_out_problem_is_trained_on_in_any_order_of_its_numbers(seed, highest, operators, test_size):
    options = {"operators": operators, "highest_target": highest, "test_size": test_size, "size": 600}
    task = build_task("countdown", options)
    train, test = task.rows("train", seed), task.rows("test", 0)
    assert len(train) == 600 and len(test) == test_size
    assert not {problem(row) for row in train} & {problem(row) for row in test}
    assert len({row["prompt"] for row in train}) == len(train)
    assert len({problem(row) for row in test}) == len(test)


def test_all_problems_are_those_that_some_expression_solves():
    options = {"numbers": 2, "highest_target": 81, "test_size": 10}
    expected = {
        (a, b, value)
        for a, b in product(range(1, 10), repeat=2)
        if a <= b
        for value in (a + b, a - b, b - a, a * b)
        if value >= 1
    }
    prompts = sum(1 if a == b else 2 for a, b, _ in expected)
    test = build_task("countdown", options).rows("test", 0)
    held_out = sum(1 if row["numbers"][0] == row["numbers"][1] else 2 for row in test)
    everything = build_task("countdown", {**options, "size": prompts - held_out})
    assert {problem(row) for row in both_splits(everything)} == expected
    with pytest.raises(ConfigError, match="fewer problems than wanted") as caught:
        build_task("countdown", {**options, "size": prompts - held_out + 1}).rows("train", 0)
    assert caught.value.details["needed"] == f"at most {prompts - held_out}"


def test_demonstrations_are_drawn_from_all_right_expressions():
    right = {
        f"{a}{p}{b}{q}{c}"
        for a, b, c in permutations("356")
        for p, q in product("+-*", repeat=2)
        if reward(f"{a}{p}{b}{q}{c}", [3, 5, 6], 21)["score"] == 1.0
    }
    assert right == {"3*5+6", "5*3+6", "6+3*5", "6+5*3"}
    task = build_task("countdown", {"size": 5000, "highest_target": 99})
    found = {
        row["demonstration"]
        for seed in range(12)
        for row in task.rows("train", seed)
        if problem(row) == (3, 5, 6, 21)
    }
    assert found == right


def test_most_problems_have_many_right_answers():
    counts = []
    for row in build_task("countdown", {}).rows("test", 0):
        texts = {
            f"{a}{p}{b}{q}{c}"
            for a, b, c in permutations(row["numbers"])
            for p, q in product("+-*", repeat=2)
        }
        counts.append(sum(reward(t, row["numbers"], row["answer"])["score"] for t in texts))
    assert min(counts) >= 1 and sorted(counts)[len(counts) // 2] >= 4


def test_the_seed_decides_prompts_and_demonstrations_of_the_train_split_alone():
    task = build_task("countdown", {})
    assert task.rows("train", 3) == task.rows("train", 3) != task.rows("train", 4)
    assert task.rows("test", 3) == task.rows("test", 4)


def test_the_held_out_problems_never_change():
    rows = build_task("countdown", {}).rows("test", 0)
    assert [row["prompt"] for row in rows[: len(HELD_OUT_FIRST)]] == HELD_OUT_FIRST


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"operators": "+/"}, "operators = '+/': Value error, needed some of +-*, each once"),
        ({"operators": "++"}, "each once"),
        ({"operators": ""}, "each once"),
        ({"numbers": 5}, "numbers = 5: Input should be less than or equal to 4"),
        ({"number": 3}, "unknown option 'number' (did you mean 'numbers'?)"),
    ],
)
def test_wrong_options_are_refused(options, found):
    with pytest.raises(ConfigError) as caught:
        build_task("countdown", options)
    assert found in str(caught.value)


def test_more_held_out_problems_than_half_of_all_are_refused():
    task = build_task("countdown", {"numbers": 2, "test_size": 150})
    with pytest.raises(ConfigError) as caught:
        task.rows("test", 0)
    assert caught.value.details["where"] == "data.task_options.test_size"
