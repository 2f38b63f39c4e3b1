import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import rewards
from rewards import gsm8k, math_answer

DATA = Path(__file__).parents[3] / "shared" / "data"
FILES = [name for name in rewards.names() if name not in rewards.ALIASES]
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the datasets are not at hand")


def score(value):
    return value["score"] if isinstance(value, dict) else value


def rows(*files):
    return [json.loads(line) for file in files for line in (DATA / file).read_text().splitlines()]


@pytest.mark.parametrize("name", FILES)
def test_every_shipped_reward_passes_its_own_cases(name):
    module = import_module(f"rewards.{name}")
    cases = module.selfcheck()
    assert {expected for _, expected in cases} == {0.0, 1.0}
    for arguments, expected in cases:
        assert score(module.reward(**arguments)) == expected, arguments


def test_names_are_the_files_and_their_aliases():
    assert rewards.names() == ["countdown", "exact_match", "format_tags", "gsm8k", "math", "math_answer"]
    assert rewards.find("math") == rewards.find("math_answer") == Path(math_answer.__file__)
    assert rewards.find("no_such_reward") is None


def test_importing_a_reward_loads_nothing_outside_the_standard_library():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules);"
        f"import {', '.join('rewards.' + name for name in FILES)};"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(m for m in new if m not in sys.stdlib_module_names))"
    )
    root = Path(rewards.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "['rewards']"


def test_gsm8k_separates_a_missing_answer_from_a_wrong_one():
    assert gsm8k.reward("I am not sure.", "#### 72")["outcome"] == "unparseable"
    assert "outcome" not in gsm8k.reward("It is 71.", "#### 72")


def test_gsm8k_refuses_a_gold_answer_without_a_number():
    with pytest.raises(ValueError, match="holds no number"):
        gsm8k.reward("72", "#### many")


def test_gsm8k_takes_no_digit_string_of_unbounded_length_for_a_number():
    assert gsm8k.reward("#### " + "7" * 100_000, "#### 7")["outcome"] == "unparseable"


@needs_data
@pytest.mark.parametrize(
    "write", ["#### {}", "The answer is {}.", r"\boxed{{{}}}", "${}.00", "**{}** in total"]
)
def test_every_gold_answer_of_gsm8k_scores_one_however_it_is_written(write):
    found = rows("gsm8k/train.jsonl", "gsm8k/test.jsonl")
    assert len(found) == 8792
    wrong = [
        gold
        for row in found
        for gold in [row["answer"].rpartition("####")[2].strip()]
        if gsm8k.reward(write.format(gold), row["answer"])["score"] != 1.0
    ]
    assert wrong == []


@needs_data
def test_no_gold_answer_of_gsm8k_scores_one_for_another_number():
    for row in rows("gsm8k/test.jsonl"):
        gold = row["answer"].rpartition("####")[2].strip().replace(",", "")
        for other in (int(gold) + 1, int(gold) * 10, -int(gold) - 1):
            assert gsm8k.reward(f"The answer is {other}.", row["answer"])["score"] == 0.0


@needs_data
def test_every_gold_answer_of_math500_scores_one_in_a_box():
    found = rows("math500/test.jsonl")
    assert len(found) == 500
    boxed = [(math_answer.gold_completion(row["answer"]), row["answer"]) for row in found]
    assert [answer for text, answer in boxed if math_answer.reward(text, answer)["score"] != 1.0] == []


@needs_data
@pytest.mark.slow
def test_every_worked_solution_of_math500_scores_one():
    wrong = [
        row["answer"]
        for row in rows("math500/test.jsonl")
        if math_answer.reward(row["solution"], row["answer"])["score"] != 1.0
    ]
    assert wrong == []


@needs_data
@pytest.mark.slow
def test_every_gold_answer_of_math500_equals_itself_as_mathematics():
    answers = {row["answer"] for row in rows("math500/test.jsonl")}
    assert [a for a in answers if not math_answer.equal(a, math_answer.parse_latex(a))] == []


@needs_data
@pytest.mark.slow
def test_answers_of_other_problems_score_zero_unless_they_mean_the_same():
    answers = [row["answer"] for row in rows("math500/test.jsonl")]
    same = {
        frozenset(pair)
        for pair in [("x=5", "5"), (r"15\mbox{ cm}^2", "15"), ("40", "40_9"), (r"2\sqrt{5}", r"2 \sqrt{5}")]
    }
    same |= {frozenset((str(n), rf"{n}^\circ")) for n in range(1, 181)}
    surprises = [
        (response, gold)
        for shift in (1, 7, 31)
        for response, gold in zip(answers, answers[shift:] + answers[:shift], strict=True)
        if response != gold
        and frozenset((response, gold)) not in same
        and math_answer.reward(math_answer.gold_completion(response), gold)["score"] == 1.0
    ]
    assert surprises == []
