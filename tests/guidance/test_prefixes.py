"""The grid over a solution, where its beginnings end, and which of them hold the answer."""

import pytest

from rlpost.guidance.prefixes import holds_answer, prefix_lengths, prefixes

SOLUTION = "Half of 48 is 24. So May has 24.\nTogether: 48 + 24 = 72.\nThe answer is 72"


@pytest.mark.parametrize(
    ("tokens", "parts", "lengths"),
    [
        (1000, 4, [250, 500, 750, 1000]),
        (1000, 8, [125, 250, 375, 500, 625, 750, 875, 1000]),
        (7, 4, [1, 3, 5, 7]),
        (2, 4, [1, 2]),
        (3, 1, [3]),
    ],
)
def test_the_grid_is_uniform_and_its_points_differ(tokens, parts, lengths):
    assert prefix_lengths(tokens, parts) == lengths


def test_every_beginning_is_one_and_they_grow(tiny_tokenizer):
    found = prefixes(SOLUTION, tiny_tokenizer, 8, "token")
    assert all(SOLUTION.startswith(p.text) and p.text == p.text.rstrip() for p in found)
    assert [p.tokens for p in found] == sorted({p.tokens for p in found})
    assert found[-1].text == SOLUTION and found[-1].share == 1.0
    assert [p.text for p in found[:2]] == ["Half of 4", "Half of 48 is 24."]
    assert [p.tokens for p in found[:2]] == [9, 17] and found[1].share == 17 / len(SOLUTION)


def test_a_character_of_several_tokens_is_never_cut(tiny_tokenizer):
    found = prefixes("é" * 6, tiny_tokenizer, 4, "token")  # two byte tokens each
    assert all(p.text == "é" * len(p.text) for p in found)
    assert [p.tokens for p in found] == [2 * len(p.text) for p in found]


def test_lines_and_sentences_end_where_they_end_and_points_between_fall_together(tiny_tokenizer):
    lines = [p.text for p in prefixes(SOLUTION, tiny_tokenizer, 8, "line")]
    first, second = SOLUTION.split("\n")[:2]
    assert lines == [first, f"{first}\n{second}", SOLUTION]
    sentences = [p.text for p in prefixes(SOLUTION, tiny_tokenizer, 8, "sentence")]
    assert sentences == ["Half of 48 is 24.", first, f"{first}\n{second}", SOLUTION]


@pytest.mark.parametrize(
    ("text", "answer", "held"),
    [
        ("so x = 72", "72", True),
        ("so x = 72.", 72, True),
        ("so x = 172", "72", False),
        ("so x = 72.5", "72", False),
        ("so x = 0.72", "72", False),
        ("so x = 1,172", "172", False),
        ("it is 12,000 now", "12000", True),
        ("it is 12{,}000 now", "12000", True),
        (r"that is \frac{1}{2} of it", r"\frac{1}{2}", True),
        ("It is NORTH of here", "north", True),
        ("northern", "north", False),
        ("either 3 or 9", ["9", "11"], True),
        ("so 72 it is", "48 + 24 = 72 #### 72", True),
        ("so 48 + 24", "48 + 24 = 72 #### 72", False),
        ("nothing here", {"x": 1}, False),
        ("May has 48", "48", False),  # the problem says so itself
    ],
)
def test_a_beginning_holds_the_answer_when_it_stands_there_by_itself(text, answer, held):
    assert holds_answer(text, answer, "Natalia sold 48 clips") is held
