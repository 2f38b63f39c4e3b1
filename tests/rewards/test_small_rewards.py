"""Numbers, options, JSON, tags and length: what is refused, and what is a failure rather than a zero."""

import json
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import format_tags, json_schema, length, multiple_choice, numeric_match, overlong
from rlpost.config.schema import RewardConfig, ScoringConfig
from rlpost.data.trajectory import Prompt
from rlpost.scoring import Scorer, load_reward


def loaded(name, **options):
    return load_reward(SimpleNamespace(function=name, name=None, options=options, batch_size=None))


@pytest.mark.parametrize(
    ("name", "columns", "options"),
    [
        ("numeric_match", {"answer": "many"}, {}),
        ("numeric_match", {"answer": "1"}, {"relative": -1}),
        ("numeric_match", {"answer": "1/0"}, {}),
        ("multiple_choice", {"answer": "nothing"}, {}),
        ("multiple_choice", {"answer": 3, "choices": ["a", "b"]}, {}),
        ("json_schema", {"schema": {"type": "no such type"}}, {}),
        ("json_schema", {"schema": "{"}, {}),
        ("json_schema", {"schema": {"$ref": "https://example.com/schema.json"}}, {}),
        ("tool_call", {"expected_action": {}}, {}),
        ("instructions", {"instruction_id_list": ["no:such"], "kwargs": [{}]}, {}),
        ("format_tags", {}, {"structure": {}}),
        ("length", {}, {"least": 5, "most": 3}),
        ("overlong", {}, {"limit": 10, "cache": 11}),
        ("gsm8k", {"answer": "#### many"}, {}),
    ],
)
def test_a_row_or_an_option_that_makes_no_sense_is_an_error_and_no_zero(name, columns, options):
    verdict = loaded(name, **options)("", '{"age": 7}', columns)
    assert verdict["outcome"] == "error"
    assert verdict["score"] is None
    assert verdict["note"]


@settings(max_examples=200, deadline=None)
@given(st.decimals(-(10**9), 10**9, allow_nan=False, places=3))
def test_a_number_equals_itself_in_every_spelling(number):
    whole, _, decimals = f"{number:.3f}".partition(".")
    for text in (f"{number:.3f}", f"{int(whole):,}.{decimals}" if int(whole) else f"{number}", f"{number:E}"):
        assert numeric_match.reward(f"The answer is {text} m.", str(number))["score"] == 1.0
    assert numeric_match.reward(f"The answer is {number}", str(number + 1))["score"] == 0.0


@pytest.mark.parametrize("share", [0.01, 0.07, 0.3, 1e-6])
@pytest.mark.parametrize("gold", [1, 7, -250, 1_000_000])
def test_the_tolerance_is_exact(gold, share):
    for sign in (1, -1):
        edge = gold + sign * abs(gold) * Fraction(str(share))
        beyond = edge + sign * Fraction(1, 10**9)
        for found, score in ((edge, 1.0), (beyond, 0.0)):
            text = f"{found.numerator}/{found.denominator}"
            assert numeric_match.reward(text, gold, relative=share)["score"] == score


@pytest.mark.parametrize("text", ["", "no number", "1/0", "9" * 10_000, "1e999999999", "x2"])
def test_a_response_without_a_number_is_unparseable(text):
    result = numeric_match.reward(text, "1")
    assert (result["score"], result["outcome"]) == (0.0, "unparseable")


@pytest.mark.parametrize("text", ["", "The answer is B or C", "I think so", "The answer is 7"])
def test_a_response_without_a_single_option_is_unparseable(text):
    result = multiple_choice.reward(text, "B")
    assert (result["score"], result["outcome"]) == (0.0, "unparseable")


def test_options_may_be_given_by_letter_number_or_text():
    choices = ["red", "green", "blue"]
    for answer in ("B", "(b)", 1, "green", "Green."):
        assert multiple_choice.reward("The answer is green.", answer, choices)["score"] == 1.0
        assert multiple_choice.reward("(B)", answer, choices)["score"] == 1.0
        assert multiple_choice.reward("(C)", answer, choices)["score"] == 0.0


def test_json_is_told_apart_from_json_that_does_not_conform():
    schema = {"type": "array", "items": {"type": "integer"}, "maxItems": 2}
    assert json_schema.reward("[1, 2]", schema) == {"score": 1.0}
    assert json_schema.reward("[1, 2", schema)["outcome"] == "unparseable"
    result = json_schema.reward('[1, "2"]', schema)
    assert result == {"score": 0.0, "note": "$[1]: '2' is not of type 'integer'"}
    assert json_schema.reward("[" * 100_000, schema)["outcome"] == "unparseable"


def test_a_recursive_schema_is_no_way_to_crash():
    schema = {"type": "array", "items": {"$ref": "#"}}
    deep = "[" * 900 + "]" * 900
    assert json_schema.reward(json.dumps([[], [[]]]), schema)["score"] == 1.0
    assert json_schema.reward(deep, schema)["score"] in (0.0, 1.0)


def test_tags_may_be_nested_and_named_at_will():
    structure = {"plan": None, "call": {"name": None, "args": {"x": None}}}
    right = "<plan>p</plan>\n<call> <name>f</name> <args><x>1</x></args> </call>"
    assert format_tags.reward(right, structure) == 1.0
    for wrong in (
        right.replace("<x>1</x>", "1"),
        right.replace("</args> </call>", "</call></args>"),
        right * 2,
    ):
        assert format_tags.reward(wrong, structure) == 0.0


def test_length_falls_linearly_and_overlong_too():
    scores = [length.reward("w " * n, least=4, most=6, slack=3)["score"] for n in range(11)]
    assert scores == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    punished = [overlong.reward("w " * n, limit=10, cache=4)["score"] for n in range(4, 13)]
    assert punished == [0.0, 0.0, 0.0, -0.25, -0.5, -0.75, -1.0, -1.0, -1.0]


ROWS = {
    "math": [{"answer": r"\frac{1}{2}"}, {"answer": "(-\\infty, 2]"}, {"answer": 27.0}],
    "numeric_match": [{"answer": "1,234.5"}, {"answer": "-1/3"}, {"answer": 27.0}],
    "multiple_choice": [{"answer": 1, "choices": ["red", "green"]}, {"answer": "b", "choices": ["1", "2"]}],
    "exact_match": [{"answer": "north"}],
    "json_schema": [{"schema": {"type": "object"}}],
    "tool_call": [
        {"expected_action": {"name": "f", "arguments": {}}},
        {"expected_action": {"type": "message"}},
    ],
    "instructions": [{"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}],
    "format_tags": [{}],
    "length": [{}],
}


def test_the_canary_of_real_workers_accepts_the_shipped_rewards():
    for name, rows in ROWS.items():
        prompts = [Prompt(id=str(k), text="?", token_ids=(0,), columns=row) for k, row in enumerate(rows)]
        with Scorer([RewardConfig(function=name)], ScoringConfig(workers=1, deadline_s=60)) as scorer:
            scorer.canary(prompts)
