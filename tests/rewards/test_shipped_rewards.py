import asyncio
import doctest
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import rewards
from rewards import gsm8k, math_answer
from rlpost.scoring.sandbox import shared_sandbox

FILES = [name for name in rewards.names() if name not in rewards.ALIASES]


@pytest.fixture(scope="module", autouse=True)
def _no_jail_is_left():
    yield
    shared_sandbox().close()


def score(value):
    value = asyncio.run(value) if inspect.iscoroutine(value) else value
    return value["score"] if isinstance(value, dict) else value


@pytest.mark.parametrize("name", FILES)
def test_every_shipped_reward_passes_its_own_cases(name):
    module = import_module(f"rewards.{name}")
    cases = module.selfcheck()
    best, worst = (0.0, -1.0) if name == "overlong" else (1.0, 0.0)
    scores = [expected for _, expected in cases]
    assert (max(scores), min(scores)) == (best, worst)
    for arguments, expected in cases:
        assert score(module.reward(**arguments)) == expected, arguments


@pytest.mark.parametrize("name", FILES)
def test_the_examples_of_every_shipped_reward_hold(name):
    failed, tried = doctest.testmod(import_module(f"rewards.{name}"))
    assert failed == 0 and tried > 0


def test_names_are_the_files_and_their_aliases():
    assert rewards.names() == sorted([*FILES, "math"])
    assert {"countdown", "gsm8k", "instructions", "math_answer", "tool_call"} < set(FILES)
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
