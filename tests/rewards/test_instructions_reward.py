"""The instruction-following reward: how it counts, and what it refuses to judge."""

import pytest

from rewards import instructions
from rewards.instructions import follows, reward

WORDS = "length_constraints:number_words"
SENTENCES = "length_constraints:number_sentences"


def test_every_check_has_a_case_that_keeps_it_and_one_that_breaks_it():
    seen = {}
    for arguments, score in instructions.selfcheck():
        for name in arguments["instruction_id_list"]:
            seen.setdefault(name, set()).add(score)
    assert seen.keys() == instructions.CHECKS.keys()
    assert all(scores >= {0.0, 1.0} for scores in seen.values())


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("It rains.", 1),
        ("It rains. It pours!", 2),
        ("It rains... again", 2),
        ("Dr. A. Bo paid 3.5 euros to Mr. Li.", 1),
        ('She said "Stop!" Then she left.', 2),
        ("Really?! Yes", 2),
        ("no full stop", 1),
        ("It costs 3.50.", 1),
        ("wait." + "." * 50_000 + "x", 1),
    ],
)
def test_sentences_are_counted_as_people_do(text, count):
    assert follows(text, SENTENCES, {"num_sentences": count, "relation": "exactly"})


@pytest.mark.parametrize(
    ("text", "count"),
    [("don't", 1), ("well-known fact", 2), ("a, b; c.", 3), ("été à Köln", 3), ("- - -", 0), ("3.5", 2)],
)
def test_words_are_counted_as_people_do(text, count):
    assert follows(text, WORDS, {"num_words": count, "relation": "exactly"})


@pytest.mark.parametrize(
    ("relation", "kept"),
    [
        ("at least", [False, True, True]),
        ("at most", [True, True, False]),
        ("less than", [True, False, False]),
        ("more than", [False, False, True]),
        ("exactly", [False, True, False]),
    ],
)
def test_relations_stand_for_themselves(relation, kept):
    texts = ["a", "a b", "a b c"]
    assert [follows(t, WORDS, {"num_words": 2, "relation": relation}) for t in texts] == kept


def test_arguments_may_be_floats_as_some_tables_hold_them():
    arguments = {"num_paragraphs": 2.0, "nth_paragraph": 2.0, "first_word": "so"}
    assert follows("Why?\n\nSo what?", "length_constraints:nth_paragraph_first_word", arguments)
    assert follows("* a\n* b", "detectable_format:number_bullet_lists", {"num_bullets": 2.0})
    assert follows("a b", WORDS, {"num_words": 2.0, "relation": "exactly"})


def test_arguments_that_are_none_are_absent():
    assert follows("no commas", "punctuation:no_comma", {"num_words": None, "relation": None})
    assert follows("no commas", "punctuation:no_comma", None)


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        (["language:response_language"], [{"language": "de"}], "unknown instruction"),
        ([WORDS], [{"num_words": 3}], "do not fit"),
        ([WORDS], [{"num_words": 3, "relation": "about"}], "unknown relation"),
        (["punctuation:no_comma"], [{"num_words": 3}], "do not fit"),
        ([WORDS], [], "1 instructions with 0"),
        ([], [], "0 instructions"),
    ],
)
def test_what_cannot_be_checked_raises(names, arguments, message):
    with pytest.raises(ValueError, match=message):
        reward("one two three", names, arguments)


@pytest.mark.parametrize("piece", [".", " ", "\n", "*", "a ", "[", "<<", "-", "`", '"', "* "])
def test_a_response_that_repeats_itself_is_judged(piece):
    for arguments, _ in instructions.selfcheck()[::3]:
        names, kwargs = arguments["instruction_id_list"], arguments["kwargs"]
        result = reward(piece * 20_000 + "x", names, kwargs, partial=True)
        assert 0.0 <= result["score"] <= 1.0
