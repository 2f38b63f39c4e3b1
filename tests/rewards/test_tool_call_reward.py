"""The tool call reward: the rules of comparison one by one."""

import json

import pytest

from rewards import tool_call
from rewards.tool_call import reward, similar


def written(*calls):
    return "".join(f"<tool_call>{json.dumps(call)}</tool_call>" for call in calls)


def call(name="f", **arguments):
    return {"name": name, "arguments": arguments}


@pytest.mark.parametrize(
    ("found", "expected", "threshold", "same"),
    [
        ("book flight to Paris", "book flight to Paris", 0.5, True),
        ("Book a flight to Rome", "book flight to Paris", 1 / 3, True),
        ("Book a flight to Rome", "book flight to Paris", 0.34, False),
        ("ls -la", "grep -rn foo src", 0.01, False),
        ("paris", "Paris", 0.0, False),
        ("Paris", "Paris", 0.5, True),
        ("to Paris", "Paris", 0.0, False),
        ("go go go", "go now then", 0.2, False),
        ("a b", "b a", None, False),
    ],
)
def test_strings_match_by_the_words_that_they_share(found, expected, threshold, same):
    assert similar(found, expected, threshold) is same
    assert similar(expected, found, threshold) is same


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        (1, 1, True),
        (1, 1.0, False),
        (1, True, False),
        (0, None, False),
        (0.1 + 0.2, 0.3, True),
        (1.0, 1.00001, False),
        ([1, 2], [2, 1], False),
        ([1, [2]], [1, [2]], True),
        ([1], [1, 2], False),
        ({"a": None}, {}, False),
        ({"a": {"b": "x"}}, {"a": {"b": "x"}}, True),
        ({"a": {"b": "x"}}, {"a": {"b": "y"}}, False),
    ],
)
def test_arguments_match_in_type_keys_and_order(found, expected, same):
    assert reward(written(call(v=found)), call(v=expected))["score"] == float(same)


def test_parallel_calls_match_in_any_order_each_once():
    a, b, c = call("a"), call("b"), call("c")
    assert reward(written(c, a, b), [a, b, c])["score"] == 1.0
    assert reward(written(a, a, b), [a, b, b])["score"] == 0.0
    assert reward(written(a, b), [a, b, c])["score"] == 0.0
    assert reward(written(a, b, c), [a, b])["score"] == 0.0
    assert reward(written(a, b, c), [a, b], surplus=True)["score"] == 1.0


def test_the_matching_gives_way_when_one_call_fits_two():
    wide, narrow = call(q="new red shoes"), call(q="old red shoes")
    found = written(call(q="new red boots"), call(q="new red shoes"))
    assert reward(found, [wide, narrow], threshold=0.3)["score"] == 1.0
    assert not tool_call.assignable([[True, False], [True, False]])
    assert tool_call.assignable([[True, True], [True, False]])


def test_a_message_is_right_exactly_where_one_is_expected():
    message = {"type": "message", "content": "Which day?"}
    assert reward("When do you want to go?", message)["score"] == 1.0
    assert reward('{"day": "Monday"}', message)["score"] == 1.0
    assert reward(written(call()), message)["score"] == 0.0
    assert reward("When do you want to go?", call())["score"] == 0.0
    assert reward("", message)["outcome"] == "unparseable"
    assert reward("<think>hm", message)["outcome"] == "unparseable"


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call></tool_call>",
        "<tool_call>[]</tool_call>",
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "x"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {}',
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
    ],
)
def test_a_call_that_cannot_be_read_is_unparseable(text):
    result = reward(text, call())
    assert (result["score"], result["outcome"]) == (0.0, "unparseable")


def test_expected_actions_may_be_json_text_and_in_the_form_of_openai():
    openai = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    for action in (
        call(x=1),
        json.dumps(call(x=1)),
        [call(x=1)],
        openai,
        {**call(x=1), "type": "function_call"},
    ):
        assert reward(written(call(x=1)), action)["score"] == 1.0
        assert reward(written(call(x=2)), action)["score"] == 0.0
    assert reward(written(openai), call(x=1))["score"] == 1.0


@pytest.mark.parametrize("action", [[], {}, "{}", "not json", 5, [5], None])
def test_an_expected_action_that_is_none_raises(action):
    with pytest.raises(ValueError, match=r"action|name|Expecting"):
        reward(written(call()), action)
