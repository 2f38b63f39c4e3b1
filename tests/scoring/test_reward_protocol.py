import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlpost.config.schema import RewardConfig
from rlpost.data.trajectory import RewardResult
from rlpost.errors import RewardError
from rlpost.scoring import load_reward
from rlpost.scoring.verdict import read_return


@pytest.fixture
def reward_file(tmp_path):
    def write(text, name="mine.py"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def load(function, **more):
    return load_reward(RewardConfig(function=function, **more))


def test_a_shipped_name_and_its_alias_load_the_shipped_file():
    assert load("gsm8k").describe().source.rpartition(":")[0].endswith("rewards/gsm8k.py")
    assert load("math").name == "math"
    assert load("math")("", r"\boxed{0.5}", {"answer": r"\frac{1}{2}"})["score"] == 1.0


def test_a_file_gives_its_function_named_reward_or_its_only_public_one(reward_file):
    two = reward_file("def helper(x): return x\ndef reward(completion): return helper(0.25)\n")
    assert load(two)("", "text", {})["score"] == 0.25
    one = reward_file("import math\ndef _h(): return 1\ndef length(completion): return len(completion)\n")
    assert load(one)("", "text", {})["score"] == 4.0
    assert load(one).name == "mine"


def test_a_function_can_be_named_in_a_file_or_in_a_module(reward_file):
    path = reward_file("def a(completion): return 1\ndef b(completion): return 2\n")
    assert load(f"{path}:b")("", "", {})["score"] == 2.0
    assert load("rewards.exact_match:reward", name="match")("", "x", {"answer": "x"})["score"] == 1.0


def test_a_file_may_import_its_neighbour(reward_file):
    reward_file("HALF = 0.5\n", "neighbour_of_mine.py")
    assert (
        load(reward_file("from neighbour_of_mine import HALF\ndef reward(completion): return HALF\n"))(
            "", "", {}
        )["score"]
        == 0.5
    )


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("gsm8", "did you mean 'gsm8k'"),
        ("nowhere/to/be/found.py", "does not exist"),
        ("no.such.module:reward", "cannot be imported"),
        ("rewards.gsm8k:rewrad", "there is no function 'rewrad'"),
        ("{}:missing", "there is no function 'missing'"),
    ],
)
def test_a_reference_to_nothing_is_one_clear_error(function, says, reward_file):
    with pytest.raises(RewardError, match=says):
        load(function.format(reward_file("def reward(completion): return 1\n")))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def a(completion): pass\ndef b(completion): pass\n", "functions: a, b"),
        ("def reward(text): return 1\n", "does not take the response"),
        ("def reward(completion, /): return 1\n", "passed by name"),
        ("def reward(completion):\n    return (\n", r"SyntaxError.*\n.*mine.py:2"),
        ("x = 1\nraise RuntimeError('no key')\n", r"RuntimeError: no key\n.*mine.py:2 in <module>"),
        ("import sys\nsys.exit(0)\n", "SystemExit"),
    ],
)
def test_a_file_that_breaks_the_protocol_is_one_clear_error(text, says, reward_file):
    with pytest.raises(RewardError, match=says):
        load(reward_file(text))


def test_a_native_function_receives_what_it_names_and_its_options(reward_file):
    path = reward_file(
        "def reward(completion, prompt, answer, scale=1, bonus=0): return dict(score=scale, n=bonus)\n"
    )
    reward = load(path, options={"scale": 3})
    assert reward("p", "c", {"answer": "a", "bonus": 7, "other": 1}) == {
        "score": 3.0, "outcome": "scored", "parts": {"n": 7.0}, "note": "",
    }  # fmt: skip
    assert reward.describe().needs == [("answer",)]
    with pytest.raises(RewardError, match="no parameter 'scael'"):
        load(path, options={"scael": 3})


def test_a_row_without_a_required_column_is_an_error_that_names_it(reward_file):
    verdict = load(reward_file("def reward(completion, level): return 1\n"))("", "", {"answer": "1"})
    assert (verdict["score"], verdict["outcome"]) == (None, "error")
    assert "no column 'level', only answer" in verdict["note"]


def test_an_async_function_is_awaited(reward_file):
    text = "import asyncio\nasync def reward(completion):\n    await asyncio.sleep(0)\n    return 0.5\n"
    assert load(reward_file(text))("", "", {})["score"] == 0.5


def test_a_trl_function_receives_lists_of_one(reward_file):
    text = (
        "def reward(prompts, completions, answer, **kwargs):\n"
        "    assert kwargs.pop('log_extra') and kwargs.pop('log_metric')\n"
        "    assert kwargs == {'level': [3]}\n"
        "    return [float(c == a) for p, c, a in zip(prompts, completions, answer, strict=True)]\n"
    )
    reward = load(reward_file(text))
    assert reward.form == "trl"
    assert reward("p", "x", {"answer": "x", "level": 3})["score"] == 1.0
    assert reward("p", "y", {"answer": "x", "level": 3})["score"] == 0.0


def test_a_trl_function_receives_messages_when_the_prompt_is_a_chat(reward_file):
    text = (
        "def reward(prompts, completions, **kwargs):\n"
        "    assert prompts == [[{'role': 'user', 'content': 'hi'}]]\n"
        "    return [len(completion[0]['content']) for completion in completions]\n"
    )
    chat = [{"role": "user", "content": "hi"}]
    assert load(reward_file(text))("<user>hi", "four", {"prompt": chat})["score"] == 4.0


TRL = """
import re

def reward_len(prompts, completions, completion_ids=None, **kwargs):
    return [-abs(20 - len(text)) for text in completions]

def math_reward(prompts, completions, task, ground_truth, log_extra=None, log_metric=None, **kwargs):
    rewards = [float(g in c) if t == "math" else None for c, g, t in zip(completions, ground_truth, task)]
    log_extra("given", ground_truth)
    log_extra("length", [len(c) for c in completions])
    log_metric("calls", 1)
    return rewards

async def format_reward(prompts, completions, **kwargs):
    texts = [completion[0]["content"] for completion in completions]
    assert prompts == [[{"role": "user", "content": "hi"}]]
    return [1.0 if re.match(r"^<think>.*?</think><answer>.*?</answer>$", text) else 0.0 for text in texts]

def needs_ids(completions, completion_ids, **kwargs): return [float(len(ids)) for ids in completion_ids]

def needs_state(completions, trainer_state): return [0.0]

def ids_alone(completion_ids, **kwargs): return [float(len(ids)) for ids in completion_ids]
"""


def test_functions_written_for_trl_work_unchanged(reward_file):
    path = reward_file(TRL)
    assert load(f"{path}:reward_len")("p", "1234", {})["score"] == -16.0
    row = {"task": "math", "ground_truth": "7"}
    verdict = load(f"{path}:math_reward")("p", "so 7", row)
    assert (verdict["score"], verdict["parts"]) == (1.0, {"length": 4.0, "calls": 1.0})
    assert verdict["note"] == "given='7' (str)"
    chat = {"prompt": [{"role": "user", "content": "hi"}]}
    asynchronous = load(f"{path}:format_reward")
    assert asynchronous("<user>hi", "<think>a</think><answer>b</answer>", chat)["score"] == 1.0
    assert asynchronous("<user>hi", "b", chat)["score"] == 0.0


def test_none_in_a_trl_functions_list_says_that_it_does_not_apply(reward_file):
    verdict = load(f"{reward_file(TRL)}:math_reward")("p", "x", {"task": "code", "ground_truth": "7"})
    assert (verdict["score"], verdict["outcome"]) == (None, "scored")


@pytest.mark.parametrize("name", ["needs_ids", "needs_state", "ids_alone"])
def test_what_only_trls_trainer_has_is_refused_with_what_to_do_instead(name, reward_file):
    with pytest.raises(RewardError, match=r"(?s)(`completion_ids`|`trainer_state`|does not take).*remedy"):
        load(f"{reward_file(TRL)}:{name}")


@pytest.mark.parametrize("returned", ["[0.5, 0.5]", "[]", "0.5", "'1'", "[float('nan')]"])
def test_a_trl_function_that_does_not_return_one_number_fails_and_is_no_zero(returned, reward_file):
    verdict = load(reward_file(f"def reward(completions, **kwargs): return {returned}\n"))("", "", {})
    assert (verdict["score"], verdict["outcome"]) == (None, "error")
    assert "needed a" in verdict["note"]


@pytest.mark.parametrize(
    "columns",
    [{"ground_truth": "7"}, {"answer": "7"}, {"reward_model": {"style": "rule", "ground_truth": "7"}}],
)
def test_a_verl_function_finds_its_ground_truth(columns, reward_file):
    text = (
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    return {'score': float(solution_str == ground_truth), 'acc': True, 'pred': solution_str}\n"
    )
    verdict = load(reward_file(text))("", "7", columns)
    assert verdict == {"score": 1.0, "outcome": "scored", "parts": {"acc": 1.0}, "note": "pred='7' (str)"}


def test_verls_batches_and_async_functions_work_unchanged_and_its_reward_server_is_refused(reward_file):
    path = reward_file(
        "def batch(data_sources, solution_strs, ground_truths, extra_infos):\n"
        "    assert (data_sources, extra_infos) == (['gsm8k'], [{'index': 3}])\n"
        "    return [{'score': float(s == g), 'acc': s == g} for s, g in zip(solution_strs, ground_truths)]\n"
        "async def compute_score(data_source, solution_str, ground_truth, extra_info, **kwargs):\n"
        "    return float(solution_str == ground_truth)\n"
        "def served(solution_str, ground_truth, reward_router_address): return 0.0\n"
    )
    row = {"data_source": "gsm8k", "extra_info": {"index": 3}, "reward_model": {"ground_truth": "7"}}
    verdict = load(f"{path}:batch")("", "7", row)
    assert verdict == {"score": 1.0, "outcome": "scored", "parts": {"acc": 1.0}, "note": ""}
    assert load(f"{path}:batch", batch_size=16).describe().needs == [
        ("ground_truth", "reward_model", "answer")
    ]
    assert load(f"{path}:compute_score")("", "8", row)["score"] == 0.0
    with pytest.raises(RewardError, match=r"(?s)requires `reward_router_address`.*call an endpoint"):
        load(f"{path}:served")


def test_an_exception_becomes_an_error_that_names_the_users_line(reward_file):
    path = reward_file("def reward(completion):\n    return 1 / len(completion)\n")
    verdict = load(path)("", "", {})
    assert verdict["outcome"] == "error"
    assert verdict["note"] == f"ZeroDivisionError: division by zero\n  {path}:2 in reward"


@pytest.mark.parametrize(
    "value", [1, 1.0, True, np.float32(1), np.int64(1), np.bool_(True), torch.tensor(1.0), Fraction(1)]
)
def test_every_kind_of_number_is_a_score(value):
    assert read_return(value) == {"score": 1.0, "outcome": "scored", "parts": {}, "note": ""}


@pytest.mark.parametrize(
    "value",
    [
        None,
        math.nan,
        math.inf,
        10**400,
        "1",
        [1.0],
        object(),
        {},
        {"score": None},
        {"score": "1"},
        {"scores": 1},
        {"score": 1, "outcome": "great"},
        {"score": 1, "part": math.nan},
        np.array([1.0]),
        1j,
    ],
)
def test_whatever_is_no_finite_score_is_an_error_with_a_note_and_no_zero(value):
    verdict = read_return(value)
    assert (verdict["score"], verdict["outcome"]) == (None, "error")
    assert verdict["note"].startswith("the reward function returned ")


def test_outcomes_parts_and_notes_are_kept():
    assert read_return({"outcome": "unparseable"})["score"] == 0.0
    assert read_return({"outcome": "unparseable", "score": -1})["score"] == -1.0
    assert read_return({"outcome": "error", "score": 1, "note": "server down"}) == {
        "score": None, "outcome": "error", "parts": {}, "note": "server down",
    }  # fmt: skip
    result = RewardResult(0.5, "scored", {"style": 0.25}, "good")
    assert read_return(result) == {
        "score": 0.5,
        "outcome": "scored",
        "parts": {"style": 0.25},
        "note": "good",
    }
    alike = SimpleNamespace(score=1, outcome="scored", parts={"a": 2}, note=None)
    assert read_return(alike)["parts"] == {"a": 2.0}
