"""Demonstrations that are missing, malformed or too long, and pairs: what becomes of their rows."""

from collections import Counter

import pytest

from rlpost.config.schema import DataConfig
from rlpost.data import load_prompts
from rlpost.data.collate import collate_rows, demonstrated_rows
from rlpost.errors import DataError

USER = {"role": "user", "content": "u"}
SAID = {"role": "assistant", "content": "said"}
LAST = {"role": "assistant", "content": "last"}
DIALOGUE = [SAID, {"role": "user", "content": "why?"}, LAST]


def load(write_rows, tokenizer, *demonstrations, optional=False, **config):
    """Prompts of rows with these demonstrations; `...` leaves the column out."""
    rows = [
        {"prompt": f"p{i}"} | ({} if shown is ... else {"demo": shown})
        for i, shown in enumerate(demonstrations)
    ]
    settings = {"answer_column": None, "demonstration_column": "demo", **config}
    data = DataConfig(path=write_rows(*rows), **settings)
    return load_prompts(data, tokenizer, optional_demonstrations=optional)


def texts(prompts, tokenizer):
    """What each demonstration has to teach."""
    return [
        None
        if prompt.demonstration is None
        else [tokenizer.decode(turn.token_ids) for turn in prompt.demonstration if turn.by_policy]
        for prompt in prompts
    ]


MALFORMED = [
    (..., "missing_column", "column 'demo' is missing"),
    (None, "wrong_type", "expected text or a list of messages, found null"),
    (7, "wrong_type", "expected text or a list of messages, found a number 7"),
    (" \n", "empty", "demonstration 'demo' is empty"),
    ([], "empty", "is an empty list of messages"),
    ([USER, SAID], "messages", "the first message must be by assistant, found 'user'"),
    ([SAID, USER], "messages", "the last message must be by assistant, found 'user'"),
    ([SAID, LAST], "messages", "messages 1 and 2 are both by the assistant"),
    ([{"role": "robot", "content": "x"}], "messages", "expected a role of system"),
    ([{"role": "assistant"}], "messages", "'content' is missing"),
    ([{"role": "assistant", "content": ""}], "empty", "content is empty"),
]


def test_malformed_demonstrations_are_broken_rows_that_are_counted_by_reason(write_rows, tokenizer):
    good = ["right"] * 4
    prompts = load(write_rows, tokenizer, *(m[0] for m in MALFORMED), *good, max_broken_share=0.8)
    assert prompts.counts["rows"] == 15 and prompts.counts["broken"] == 11 and prompts.counts["kept"] == 4
    assert Counter(prompts.broken) == Counter(reason for _, reason, _ in MALFORMED)
    assert "line 1: column 'demo' is missing" in prompts.remarks[0]


@pytest.mark.parametrize(("shown", "words"), [(shown, words) for shown, _, words in MALFORMED])
def test_a_malformed_demonstration_is_named_with_its_line(write_rows, tokenizer, shown, words):
    with pytest.raises(DataError) as caught:
        load(write_rows, tokenizer, "right", shown)
    assert words in caught.value.details["found"] and "line 2: " in caught.value.details["found"]


def test_beside_samples_a_prompt_may_be_without_a_demonstration_but_not_with_a_malformed_one(
    write_rows, tokenizer
):
    prompts = load(write_rows, tokenizer, ..., None, "right", optional=True)
    assert texts(prompts, tokenizer) == [None, None, ["right<eos>"]]
    assert prompts.counts["demonstrations_missing"] == 2 and prompts.counts["broken"] == 0
    assert "2 of 3 prompts have no demonstration in 'demo'" in prompts.remarks[0]
    with pytest.raises(DataError, match="line 2: demonstration 'demo' is empty"):
        load(write_rows, tokenizer, "right", "", optional=True)
    with pytest.raises(DataError, match="no prompt has a demonstration"):
        load(write_rows, tokenizer, None, None, optional=True)


def test_a_dialogue_without_an_answer_is_a_prompt_where_demonstrations_are_optional(write_rows, tokenizer):
    path = write_rows({"messages": [USER]}, {"messages": [USER, *DIALOGUE]})
    columns = {"prompt_column": "messages", "demonstration_column": "messages", "answer_column": None}
    config = DataConfig(path=path, **columns)
    prompts = load_prompts(config, tokenizer, optional_demonstrations=True)
    assert texts(prompts, tokenizer) == [None, ["said<eos>", "last<eos>"]]
    with pytest.raises(DataError, match="has no message by the assistant"):
        load_prompts(config, tokenizer)


def test_overlong_demonstrations_are_an_error_by_default_that_lists_rows_and_lengths(write_rows, tokenizer):
    with pytest.raises(DataError) as caught:
        load(write_rows, tokenizer, "1234", "12345", max_demonstration_tokens=5)
    error = caught.value
    assert error.what == "1 of 2 demonstrations have more than 5 tokens"
    assert error.details["found"] == "line 2: 6 tokens"
    assert "data.max_demonstration_tokens=6" in error.details["remedy"]


@pytest.mark.parametrize(("optional", "kept"), [(False, [["1234<eos>"]]), (True, [["1234<eos>"], None])])
def test_a_dropped_demonstration_takes_its_row_along_unless_samples_are_trained_too(
    write_rows, tokenizer, optional, kept
):
    limits = {"max_demonstration_tokens": 5, "overlong_demonstrations": "drop"}
    prompts = load(write_rows, tokenizer, "1234", "12345", optional=optional, **limits)
    assert texts(prompts, tokenizer) == kept
    assert prompts.counts["demonstrations_dropped"] == 1
    assert "1 of 2 demonstrations have more than 5 tokens, left out" in prompts.remarks[0]
    with pytest.raises(DataError, match="every demonstration was dropped for its length") as caught:
        load(write_rows, tokenizer, "12345", optional=optional, **limits)
    assert caught.value.details["found"] == "the shortest has 6 tokens"


def test_a_truncated_demonstration_gets_no_eos_and_ends_with_what_is_to_be_learnt(write_rows, tokenizer):
    limits = {"max_demonstration_tokens": 7, "overlong_demonstrations": "truncate"}
    prompts = load(write_rows, tokenizer, "123456", "1234567", DIALOGUE, **limits)
    assert texts(prompts, tokenizer) == [["123456<eos>"], ["1234567"], ["said<eos>"]]
    assert [len(prompt.demonstration) for prompt in prompts] == [1, 1, 1]
    assert prompts[1].demonstration[0].text == "1234567"
    assert prompts.counts["demonstrations_truncated"] == 2
    assert "cut to their first tokens" in prompts.remarks[0]
    _, batch = collate_rows([row for prompt in prompts for row in demonstrated_rows(prompt)])
    assert batch.length_S.tolist() == [7, 7, 5] and bool(batch.mask_N.all())
    longer = load(write_rows, tokenizer, DIALOGUE, **limits | {"max_demonstration_tokens": 15})
    (prompt,) = longer
    assert [turn.by_policy for turn in prompt.demonstration] == [True, False, True]
    assert sum(len(turn.token_ids) for turn in prompt.demonstration) == 15


PAIR = {"answer_column": None, "demonstration_column": "chosen", "rejected_column": "rejected"}


def pairs(write_rows, tokenizer, *rows, **config):
    path = write_rows(*({"prompt": f"p{i}", "chosen": c, "rejected": r} for i, (c, r) in enumerate(rows)))
    return load_prompts(DataConfig(path=path, **PAIR | config), tokenizer)


def test_a_pair_is_two_neighbouring_rows_of_one_group_with_rewards_one_and_zero(write_rows, tokenizer):
    first, second = pairs(write_rows, tokenizer, ("good", "bad"), (DIALOGUE, [SAID]))
    assert tokenizer.decode(first.rejected[0].token_ids) == "bad<eos>"
    inputs, batch = collate_rows([*demonstrated_rows(first, 0.5), *demonstrated_rows(second, 0.5)])
    assert batch.group_S.tolist() == [0, 0, 1, 1]
    assert batch.reward_S.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert batch.demonstration_S.all()
    assert [tokenizer.decode(ids) for ids in inputs.response_ids[:2]] == ["good<eos>", "bad<eos>"]


def test_pairs_that_prefer_nothing_or_answer_two_prompts_are_conflicts(write_rows, tokenizer):
    prompts = pairs(
        write_rows, tokenizer, ("good", "bad"), ("same", "same"), ("x", None), max_broken_share=0.7
    )
    assert len(prompts) == 1
    assert prompts.broken["conflict"] == 1 and prompts.broken["wrong_type"] == 1
    columns = {"prompt_column": "chosen", **PAIR}
    other = {"role": "user", "content": "other"}
    path = write_rows(
        {"chosen": [USER, SAID], "rejected": [USER, LAST]},
        {"chosen": [USER, SAID], "rejected": [other, LAST]},
    )
    prompts = load_prompts(DataConfig(path=path, max_broken_share=0.5, **columns), tokenizer)
    assert len(prompts) == 1 and prompts.broken["conflict"] == 1
    assert "begins with another prompt" in prompts.remarks[0]


def test_a_pair_is_as_long_as_the_longer_response_and_is_dropped_when_cutting_makes_it_one(
    write_rows, tokenizer
):
    rows = (("ab", "x"), ("abcd1", "abcd2"), ("abcd", "b"))
    limits = {"max_demonstration_tokens": 4, "overlong_demonstrations": "truncate"}
    prompts = pairs(write_rows, tokenizer, *rows, **limits)
    assert texts(prompts, tokenizer) == [["ab<eos>"], ["abcd"]]
    assert prompts.counts["demonstrations_truncated"] == prompts.counts["demonstrations_dropped"] == 1
    prompts = pairs(write_rows, tokenizer, *rows, **limits | {"overlong_demonstrations": "drop"})
    assert len(prompts) == 1 and prompts.counts["demonstrations_dropped"] == 2


def test_a_rejected_response_is_part_of_the_fingerprint(write_rows, tokenizer):
    one = pairs(write_rows, tokenizer, ("good", "bad"))
    other = pairs(write_rows, tokenizer, ("good", "worse"))
    assert one.fingerprint != other.fingerprint


def test_solutions_of_gsm8k_are_demonstrations(shared_data, tokenizer):
    path = str(shared_data / "gsm8k" / "test.jsonl")
    columns = {"prompt_column": "question", "demonstration_column": "answer"}
    with pytest.raises(DataError) as caught:
        load_prompts(DataConfig(path=path, **columns | {"demonstration_column": "solution"}), tokenizer)
    assert caught.value.details["remedy"] == "data.demonstration_column=answer"
    limits = {"max_demonstration_tokens": 600, "overlong_demonstrations": "drop", "limit": 300}
    prompts = load_prompts(DataConfig(path=path, **columns, **limits), tokenizer)
    counts = prompts.counts
    assert (
        counts["rows"] == 300 == counts["kept"] + counts["demonstrations_dropped"] and counts["broken"] == 0
    )
    assert 0 < counts["demonstrations_dropped"] < 60
    assert all(len(prompt.demonstration[0].token_ids) <= 600 for prompt in prompts)
