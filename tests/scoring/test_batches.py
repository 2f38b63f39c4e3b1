"""Samples that are scored together: as fast as they can be, and as if each had been alone."""

from __future__ import annotations

import textwrap

import pytest

from rlpost.config.schema import RewardConfig, ScoringConfig
from rlpost.errors import RewardError
from rlpost.scoring import ScoreItem, Scorer, load_reward

LISTS = """
import os, time

def reward(completions, answer, level, log_metric=None, **kwargs):
    assert len(answer) == len(level) == len(kwargs["prompts"]) == len(completions)
    if "hang" in completions: time.sleep(1000)
    if "exit" in completions: os._exit(3)
    if "raise" in completions: raise ValueError("cannot")
    log_metric("together", len(completions))
    scores = [float(c == a) for c, a in zip(completions, answer)]
    scores = [float("nan") if c == "nan" else s for c, s in zip(completions, scores)]
    return scores[1:] if "short" in completions else scores
"""

ASYNC = """
import asyncio, os, time

running = most = 0
loops = set()

async def reward(completion, answer):
    global running, most
    loops.add(id(asyncio.get_running_loop()))
    running += 1
    most = max(most, running)
    try:
        if completion == "hang": await asyncio.sleep(1000)
        if completion == "block": time.sleep(1000)
        if completion == "raise": raise ValueError("cannot")
        if completion == "exit": raise SystemExit
        await asyncio.sleep(0.05)
        await asyncio.to_thread(time.sleep, 0.01)
        return {"score": float(completion == answer), "most": most, "loops": len(loops)}
    finally:
        running -= 1
"""


def reward_in(tmp_path, text, name="mine.py", **more):
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return RewardConfig(function=str(path), **more)


def score(configs, completions, deadline_s=1.0, **columns):
    items = [ScoreItem("q", text, {"answer": "4", "level": 1, **columns}) for text in completions]
    with Scorer(configs, ScoringConfig(workers=2, deadline_s=deadline_s)) as scorer:
        return scorer.score_items(items), scorer.take_repeated()


MIXED = ["4", "5", "4", "raise", "4", "nan", "4", "5", "short", "4", "exit", "4", "5"]


@pytest.mark.slow
def test_a_function_of_lists_gets_as_many_samples_a_call_as_asked_and_a_failure_costs_one(tmp_path):
    config = reward_in(tmp_path, LISTS, batch_size=4)
    results, repeated = score([config], ["4", "5"] * 6)
    assert [r.score for r in results] == [1.0, 0.0] * 6
    assert ({r.parts["mine/together"] for r in results}, repeated) == ({4.0}, 0)
    together, repeated = score([config], [*MIXED, "hang"], deadline_s=0.5)
    alone, never = score([config.model_copy(update={"batch_size": 1})], [*MIXED, "hang"], deadline_s=0.5)
    assert (repeated, never) == (
        4 + 4 + 2,
        0,
    )  # NaN is one sample's own matter, and its batch is not repeated
    for results in (together, alone):
        outcomes = ["scored"] * 3 + ["error", "scored", "error", "scored", "scored", "error", "scored"]
        assert [r.outcome for r in results] == [*outcomes, "error", "scored", "scored", "timeout"]
        assert results[-1].note == "no score within 0.5 s"
    assert [(r.score, r.note) for r in together] == [(r.score, r.note) for r in alone]


def test_async_samples_run_at_the_same_time_on_one_loop_each_with_its_own_deadline(tmp_path):
    config = reward_in(tmp_path, ASYNC)
    items = [ScoreItem("", "4", {"answer": "4"})] * 16
    with Scorer([config], ScoringConfig(workers=1, deadline_s=1.0)) as scorer:
        first, second = scorer.score_items(items), scorer.score_items(items)
        assert {r.parts["mine/most"] for r in first} == {16.0}
        assert {r.parts["mine/loops"] for r in second} == {1.0}  # a client made in one call works in the next
        bad = ["4", "hang", "5", "raise", "4"]
        results = scorer.score_items([ScoreItem("", text, {"answer": "4"}) for text in bad])
        assert [r.score for r in results] == [1.0, None, 0.0, None, 1.0]
        assert results[1].note == "no score within 1 s"
        assert scorer.take_repeated() == 0


@pytest.mark.slow
def test_an_async_sample_that_holds_or_ends_the_loop_costs_itself_alone(tmp_path):
    with Scorer([reward_in(tmp_path, ASYNC)], ScoringConfig(workers=1, deadline_s=1.0)) as scorer:
        worse = ["4", "block", "5", "exit", "4"]
        results = scorer.score_items([ScoreItem("", text, {"answer": "4"}) for text in worse])
        assert [(r.score, r.outcome) for r in results] == [
            (1.0, "scored"), (None, "timeout"), (0.0, "scored"), (None, "error"), (1.0, "scored"),
        ]  # fmt: skip
        assert scorer.take_repeated() == 5


def test_time_in_which_a_neighbour_holds_the_loop_is_not_taken_from_a_samples_deadline(tmp_path):
    text = """
        import asyncio, time

        async def reward(completion):
            await asyncio.sleep(0.7)
            if completion == "hold":
                time.sleep(0.6)
            await asyncio.sleep(0.1)
            return 1.0
    """
    items = [ScoreItem("", text) for text in ("hold", "a", "b", "c")]
    config = reward_in(tmp_path, text)
    with Scorer([config], ScoringConfig(workers=1, deadline_s=1.0)) as scorer:
        results = scorer.score_items(items[1:] + items[:1])
    assert [r.score for r in results[:3]] == [1.0] * 3


def test_samples_of_one_call_have_the_same_columns(tmp_path):
    text = """
        def reward(completions, level=None, **kwargs):
            return [0.0] * len(completions) if level is None else level
    """
    config = reward_in(tmp_path, text, batch_size=8)
    rows = [{"level": 2}, {}, {"level": 3}, {}]
    with Scorer([config], ScoringConfig(workers=1)) as scorer:
        results = scorer.score_items([ScoreItem("", "", row) for row in rows])
        assert [r.score for r in results] == [2.0, 0.0, 3.0, 0.0]


def test_a_batch_size_is_refused_where_a_function_takes_one_response(tmp_path):
    config = reward_in(tmp_path, "def reward(completion): return 1", batch_size=8)
    with pytest.raises(RewardError, match="takes one response at a time"):
        load_reward(config)
    assert load_reward(config.model_copy(update={"batch_size": 1})).describe().batch_size == 1
    assert load_reward(reward_in(tmp_path, ASYNC)).describe().batch_size == 32
