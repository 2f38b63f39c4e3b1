"""The code reward: the columns that data sets bring, how answers are compared, and what a limit does."""

import json

import pytest

from rewards import code
from rewards.code import extract, reward, same_text, same_value
from rlpost.config.schema import RewardConfig, ScoringConfig
from rlpost.errors import ScoringError
from rlpost.scoring import ScoreItem, Scorer
from rlpost.scoring.sandbox import sandbox as sandbox_module
from rlpost.scoring.sandbox import shared_sandbox

DOUBLE = "print(int(input()) * 2)"
ADD = "def add(a, b):\n    return a + b"
STDIN = {"inputs": ["4\n", "-1\n", "0\n"], "outputs": ["8\n", "-2\n", "0"]}


@pytest.fixture(scope="module", autouse=True)
def _no_jail_is_left():
    yield
    shared_sandbox().close()


def fenced(program, mark="python"):
    return f"Here:\n```{mark}\n{program}\n```\n"


@pytest.mark.parametrize(
    ("row", "program"),
    [
        ({"tests": [{"input": "4", "output": "8", "testtype": "stdin"}]}, DOUBLE),
        ({"tests": json.dumps([{"input": ["1", "2"], "output": ["2", "4"]}])}, f"{DOUBLE}\n{DOUBLE}"),
        ({"tests": json.dumps(STDIN)}, DOUBLE),
        ({"tests": ["assert add(1, 1) == 2"], "fn_name": None}, ADD),
        ({"input_output": json.dumps(STDIN)}, DOUBLE),
        ({"input_output": {"inputs": [[1, 2]], "outputs": [[3]], "fn_name": "add"}}, ADD),
        (
            {"verification_info": {"test_cases": [{"type": "stdin_stdout", "input": "4", "output": "8"}]}},
            DOUBLE,
        ),
        (
            {
                "tests": [
                    {"type": "function_call", "input": [[1], [2]], "output": [1, 2], "fn_name": "add"},
                    {"type": "function_call", "input": "[1, 2]", "output": "3", "fn_name": "Solution.add"},
                ]
            },
            "class Solution:\n    def add(self, a: List[int], b):\n        return a + b",
        ),
        (
            {
                "tests": [{"testtype": "functional", "input": '"a"\n"b"', "output": '"ab"'}],
                "metadata": '{"func_name": "add"}',
            },
            ADD,
        ),
        ({"test_list": ["assert add(2, 2) == N"], "test_setup_code": "N = 4", "code": "unused"}, ADD),
        ({"test_list": ["assert add(2, 2) == math.sqrt(16)"], "test_imports": ["import math"]}, ADD),
        (
            {
                "test": "def check(candidate):\n    assert candidate(1, 2) == helper(3)",
                "entry_point": "add",
                "prompt": 'def helper(x):\n    return x\n\ndef add(a, b):\n    """Adds."""\n',
            },
            f"from __future__ import annotations\n{ADD}",
        ),
        ({"test": "assert add(1, 2) == 3"}, ADD),
    ],
)
def test_the_columns_of_data_sets_are_read_and_a_wrong_program_fails_by_them(row, program):
    row = {name: value for name, value in row.items() if name != "code"}
    assert reward(fenced(program), **row)["score"] == 1.0
    wrong = program.replace("* 2", "* 3").replace("a + b", "a + b + a")
    assert reward(fenced(wrong), **row)["score"] == 0.0


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"tests": []},
        {"tests": "many"},
        {"tests": [{"input": "1"}]},
        {"tests": [{"input": "1", "output": "1", "type": "functional"}]},
        {"inputs": ["1"]},
        {"inputs": ["1"], "outputs": []},
        {"inputs": ["1"], "outputs": ["2"], "fn_name": "f"},
    ],
)
def test_a_row_whose_tests_make_no_sense_raises(row):
    with pytest.raises(ValueError, match=r"tests|test|inputs|arguments"):
        reward(fenced(DOUBLE), **row)


def test_the_program_is_the_last_block_of_python():
    text = f"{fenced('a = 1')}{fenced('b = 2', 'py')}```\n5\n```\n```text\nout\n```"
    assert extract(text) == "b = 2\n"
    assert extract("```\nfirst\n```\n```\nlast\n```") == "last\n"
    assert extract("```python\nx = '```'\nprint(x)\n```") == "x = '```'\nprint(x)\n"
    for text in ("no program", "```python\nnever closed", "```bash\nls\n```", ""):
        assert extract(text) is None
        assert reward(text, **STDIN)["outcome"] == "unparseable"


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("1  2 \r\n3\n\n", "1 2\n3", True),
        ("1\n2\n3", "1 2\n3", False),
        ("0.33333334", "0.3333333333", True),
        ("0.3334", "0.3333333333", False),
        ("3", "3.0", True),
        ("3.0", "3", False),
        ("03", "3", False),
        ("yes", "YES", False),
        ("nan", "1.0", False),
        ("", "", True),
        ("1", "", False),
    ],
)
def test_outputs_are_compared_line_by_line_and_word_by_word(found, expected, same):
    assert same_text(found, expected) is same


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ([1, 2], (1, 2), True),
        ([1, 2], [2, 1], False),
        (0.1 + 0.2, 0.3, True),
        (1, 1.0, True),
        (10**20, 10**20 + 1, False),
        ({"1": "a"}, {1: "a"}, True),
        ("1", 1, False),
        (None, 0, False),
        ([[]], [[]], True),
    ],
)
def test_values_are_compared_as_json(found, expected, same):
    assert same_value(found, expected) is same


def test_a_limit_makes_a_wrong_answer_and_says_which():
    result = reward(fenced("while True: pass"), **STDIN, wall_s=0.5)
    assert (result["score"], result["time_limit"], result["memory_limit"]) == (0.0, 1.0, 0.0)
    assert result["note"] == "test 1 of 3: wall_limit"
    result = reward(fenced("x = bytearray(1 << 30)"), **STDIN, memory_mib=256)
    assert (result["score"], result["memory_limit"]) == (0.0, 1.0)
    result = reward(fenced("import time; time.sleep(0.4)"), **STDIN, total_s=0.6, partial=True)
    assert (result["score"], result["time_limit"]) == (0.0, 1.0)
    assert "time for all tests is spent" in reward(fenced(DOUBLE), **STDIN, total_s=0.0)["note"]


def test_the_share_of_tests_that_pass_may_be_the_score():
    result = reward(fenced("print(8)"), **STDIN, partial=True)
    assert result["score"] == result["passed"] == pytest.approx(1 / 3)
    assert result["note"] == "test 2 of 3: printed '8\\n', expected '-2\\n'"


def test_the_rows_own_solution_is_its_gold_response():
    assert code.gold_completion(code=ADD) == f"```python\n{ADD}\n```"
    assert code.gold_completion(canonical_solution="    return 1\n", prompt="def f():\n") == (
        "```python\ndef f():\n    return 1\n\n```"
    )
    assert code.gold_completion(solutions=json.dumps(["x = 1", "y"])) == "```python\nx = 1\n```"
    assert code.gold_completion(solutions=[fenced("z")]) == fenced("z")
    with pytest.raises(ValueError, match="canonical_solution"):
        code.gold_completion()


def test_a_sandbox_that_does_not_work_is_a_failure_and_never_a_zero(monkeypatch):
    def broken(*_):
        raise ScoringError("the code sandbox does not start")

    sandbox_module.shared_sandbox().close()
    monkeypatch.setattr(sandbox_module, "Jail", broken)
    with pytest.raises(ScoringError, match="does not start"):
        reward(fenced(DOUBLE), **STDIN)


def test_scoring_processes_keep_their_jail_between_samples_and_end_it_with_themselves(tmp_path):
    spy = tmp_path / "spy.py"
    spy.write_text(
        "import os\n"
        "from rewards.code import gold_completion, reward as code_reward, warm_up\n"
        "from rlpost.scoring.sandbox.processes import JAILS\n"
        "def reward(completion, inputs, outputs):\n"
        "    verdict = code_reward(completion, inputs=inputs, outputs=outputs, wall_s=0.8)\n"
        "    return {**verdict, 'server': os.getpid(), 'jail': min(JAILS)}\n"
    )
    programs = [DOUBLE, "print(0)", "import os; os.kill(-1, 9)", DOUBLE, "while True: pass", DOUBLE]
    items = [ScoreItem("", fenced(p), dict(STDIN)) for p in programs]
    with Scorer([RewardConfig(function=str(spy))], ScoringConfig(workers=1, deadline_s=10)) as scorer:
        results = scorer.score_items(items)
    assert [r.score for r in results] == [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    assert [r.outcome for r in results] == ["scored"] * 6
    parts = [next(iter(r.parts.values())) if len(r.parts) == 1 else r.parts for r in results]
    assert len({str((p["server"], p["jail"])) for p in map(flat, parts)}) == 1


def flat(parts):
    return {name.rpartition("/")[2].rpartition(".")[2]: value for name, value in parts.items()}
