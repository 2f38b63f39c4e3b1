"""The synthetic tasks: right answers, disjoint splits, seeds, options."""

from itertools import islice

import pytest

from rlpost.config.schema import DataConfig
from rlpost.data import Conversation, load_prompts
from rlpost.data.tasks import TASKS, build_task
from rlpost.data.tasks.task import hashed_indices
from rlpost.errors import ConfigError

HELD_OUT_FIRST = ["25+47=", "82+83=", "88+43=", "86+37=", "13+51="]


def task_prompts(rows):
    return [row["prompt"] for row in rows]


def problems(rows):
    """The answer belongs to the problem where the prompt does not decide it."""
    return [(row["prompt"], row["answer"]) for row in rows]


def operands(prompt):
    a, b = prompt.removesuffix("=").split("+")
    return int(a), int(b)


@pytest.mark.parametrize("name", TASKS)
def test_splits_are_disjoint_and_hold_no_problem_twice(name):
    task = build_task(name, {})
    train = [problems(task.rows("train", seed)) for seed in (0, 1)]
    test = problems(task.rows("test", 0))
    assert len(set(test)) == len(test)
    for drawn in train:
        assert len(set(drawn)) == len(drawn)
        assert not set(drawn) & set(test)


@pytest.mark.parametrize("name", TASKS)
def test_the_seed_decides_the_train_split_and_nothing_of_the_test_split(name):
    task = build_task(name, {"size": 100})
    assert task.rows("train", 5) == task.rows("train", 5) != task.rows("train", 6)
    assert task.rows("test", 5) == task.rows("test", 6)
    assert task.rows("train", -1) != task.rows("train", 1)


@pytest.mark.parametrize("name", TASKS)
def test_rows_pass_the_checks_of_any_dataset(name, tokenizer):
    config = DataConfig(task=name, demonstration_column="demonstration")
    for split in ("train", "test"):
        prompts = load_prompts(config.model_copy(update={"split": split}), tokenizer, seed=3)
        assert prompts.counts["kept"] == prompts.counts["rows"] and prompts.counts["duplicates"] == 0
        for prompt in prompts:
            assert set(prompt.columns) >= {"prompt", "answer", "demonstration"}
            shown = prompt.columns["demonstration"]
            first = shown if isinstance(shown, str) else Conversation(tokenizer).text(shown[0])
            assert tokenizer.decode(prompt.demonstration[0].token_ids) == first + "<eos>"


def test_addition_covers_all_ordered_pairs_of_two_digit_operands():
    task = build_task("addition", {})
    train, test = task.rows("train", 0), task.rows("test", 0)
    assert len(train) == 7600 and len(test) == 500
    pairs = {operands(row["prompt"]) for row in train + test}
    assert pairs == {(a, b) for a in range(10, 100) for b in range(10, 100)}


def test_addition_answers_are_sums_written_from_the_last_digit():
    rows = build_task("addition", {}).rows("train", 0) + build_task("addition", {}).rows("test", 0)
    answers = {row["prompt"]: row["answer"] for row in rows}
    assert answers["12+34="] == "64"
    assert answers["99+99="] == "891"
    assert answers["10+10="] == "02"
    for row in rows:
        assert int(row["answer"][::-1]) == sum(operands(row["prompt"]))
        assert row["demonstration"] == row["answer"]


def test_the_rejected_sum_of_an_addition_forgot_a_carry_or_is_one_too_large():
    rows = {row["prompt"]: row["rejected"] for row in build_task("addition", {}).rows("train", 0)}
    assert (rows["58+67="], rows["12+34="]) == ("511", "74")
    for prompt, rejected in rows.items():
        assert int(rejected[::-1]) - sum(operands(prompt)) in (-10, 1)


def test_the_held_out_additions_never_change():
    assert task_prompts(build_task("addition", {}).rows("test", 0)[:5]) == HELD_OUT_FIRST
    assert list(islice(hashed_indices("x", 10), 10)) != list(range(10))
    assert sorted(hashed_indices("x", 10)) == list(range(10))


def test_addition_options_change_digits_order_and_size():
    plain = build_task("addition", {"reversed": False, "size": 7}).rows("train", 0)
    assert len(plain) == 7
    assert all(int(row["answer"]) == sum(operands(row["prompt"])) for row in plain)

    one_digit = build_task("addition", {"digits": 1})
    assert len(one_digit.rows("train", 0)) == 80 and len(one_digit.rows("test", 0)) == 20

    large = build_task("addition", {"digits": 9, "size": 50}).rows("train", 0)
    assert all(10**8 <= n < 10**9 for row in large for n in operands(row["prompt"]))
    assert len({row["prompt"] for row in large}) == 50


def test_the_whole_train_split_can_be_asked_for_by_size_and_no_more():
    assert len(build_task("addition", {"size": 7600}).rows("train", 0)) == 7600
    with pytest.raises(ConfigError, match="fewer problems than wanted") as caught:
        build_task("addition", {"size": 7601}).rows("train", 0)
    assert caught.value.details["needed"] == "at most 7600"
    with pytest.raises(ConfigError, match="too many to list"):
        build_task("addition", {"digits": 3}).rows("train", 0)


def test_ragged_answers_repeat_the_letter_and_differ_widely_in_length():
    rows = build_task("ragged", {}).rows("train", 0)
    lengths = sorted(len(row["answer"]) for row in rows)
    assert len(rows) == 512
    for row in rows:
        _, count, letter = row["prompt"].removesuffix(":").split(" ")
        assert row["answer"] == letter * int(count) == row["demonstration"]
    assert lengths[0] == 1 and lengths[-1] > 56
    assert lengths[256] <= 16, "half of the answers are at most a quarter of the longest"


def test_ragged_options_bound_lengths_and_sizes():
    task = build_task("ragged", {"longest": 8, "size": 30, "test_size": 5})
    assert len(task.rows("train", 0)) == 30 and len(task.rows("test", 0)) == 5
    assert max(len(row["answer"]) for row in task.rows("train", 0)) <= 8
    with pytest.raises(ConfigError) as caught:
        build_task("ragged", {"longest": 8, "test_size": 84}).rows("test", 0)
    assert caught.value.details["where"] == "data.task_options.test_size"
    assert caught.value.details["needed"] == "at most 83"


@pytest.mark.parametrize(
    ("name", "options", "split", "found"),
    [
        ("adition", {}, "train", "there is no task 'adition' (did you mean 'addition'?)"),
        ("addition", {"digit": 2}, "train", "unknown option 'digit' (did you mean 'digits'?)"),
        ("addition", {"zzzzz": 2}, "train", "unknown option 'zzzzz'\n"),
        ("addition", {"digits": "two"}, "train", "digits = 'two': Input should be a valid integer"),
        ("addition", {"digits": 0}, "train", "digits = 0: Input should be greater than or equal to 1"),
        ("ragged", {"longest": 1}, "train", "longest = 1: Input should be greater than or equal to 2"),
        ("addition", {}, "tset", "the task has no split 'tset' (did you mean 'test'?)"),
    ],
)
def test_wrong_names_and_options_are_refused_with_the_nearest_name(name, options, split, found, tokenizer):
    with pytest.raises(ConfigError) as caught:
        load_prompts(DataConfig(task=name, task_options=options, split=split), tokenizer)
    assert found in str(caught.value)
