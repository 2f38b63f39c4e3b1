"""A data set with broken rows and a verifier that fails now and then: the run goes on, and counts exactly."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rlpost.config import load_config
from rlpost.errors import DataError, ScoringError
from rlpost.monitor import read_metrics
from rlpost.training import train
from rlpost.training.recording import read_rollouts

VERIFIER = '''
import hashlib, time

def share(*texts):
    """A number in [0, 1) that the texts alone decide."""
    return int.from_bytes(hashlib.sha256("|".join(texts).encode()).digest()[:6], "big") / 2**48

def reward(completion, prompt, answer):
    number = int(answer)
    if share(prompt, completion) < 0.05:
        raise RuntimeError("cannot verify this response")
    if share(completion, prompt) < 0.004:
        time.sleep(60)
    return 1.0 if completion == str(number) else 0.1 * sum(c.isdigit() for c in completion)
'''

RECIPE = """
name: faulty
model:
  init: tiny
  tiny: {hidden_size: 16, layers: 1, heads: 1, intermediate_size: 16, max_positions: 64}
data: {path: DATA, template: none, shuffle: false, max_prompt_tokens: 16, overlong_prompts: drop}
rewards: VERIFIER
rollout: {max_response_tokens: 4, slots: 64}
algorithm: grpo
train: {steps: 2, prompts_per_step: 25, samples_per_prompt: 8, tokens_per_microbatch: 4096}
scoring: {workers: 2, deadline_s: 2.0}
monitor: {tensorboard: false}
cluster: {threads: 1}
"""

BROKEN = {
    "not_json": ['{"prompt": "1+', "17"],
    "missing_column": [{"prompt": "1+1="}],
    "wrong_type": [{"prompt": 11, "answer": "2"}, {"prompt": "1+1=", "answer": None}],
    "empty": [{"prompt": "", "answer": "2"}],
}
OVERLONG = {"prompt": "1+1+1+1+1+1+1+1+1+1=", "answer": "10"}
UNREADABLE = {"prompt": "7+7=", "answer": "fourteen"}


def share(*texts):
    return int.from_bytes(hashlib.sha256("|".join(texts).encode()).digest()[:6], "big") / 2**48


def expected_outcome(trajectory):
    """What the verifier must have done with this response, worked out anew."""
    prompt, text = trajectory.prompt.text, trajectory.text
    if trajectory.prompt.columns["answer"] == "fourteen" or share(prompt, text) < 0.05:
        return "error"
    return "timeout" if share(text, prompt) < 0.004 else "scored"


def write_data(folder):
    """600 lines: a row whose answer is no number, 590 good ones, 6 broken ones among them, 3 overlong ones.

    Returns:
        (path, lines): of the data, and of its broken rows.
    """
    rows = [UNREADABLE, *({"prompt": f"{n}+{n}=", "answer": str(2 * n)} for n in range(590))]
    lines = range(10, 76, 11)
    for line, row in zip(lines, (row for kind in BROKEN.values() for row in kind), strict=True):
        rows.insert(line - 1, row)
    path = folder / "data.jsonl"
    rows += [OVERLONG] * 3
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path, list(lines)


@pytest.fixture
def recipe(tmp_path):
    data, _ = write_data(tmp_path)
    (tmp_path / "verifier.py").write_text(VERIFIER)
    text = RECIPE.replace("DATA", str(data)).replace("VERIFIER", str(tmp_path / "verifier.py"))
    path = tmp_path / "faulty.yaml"
    path.write_text(text)
    return path


@pytest.mark.slow
def test_a_run_with_broken_rows_and_a_failing_verifier_goes_on_and_counts_exactly(recipe, tmp_path):
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "rlpost.cli", "train", str(recipe), "--output", str(run_dir)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]

    _, lines = write_data(tmp_path)
    told = done.stdout.splitlines()[1:]  # after the run's id
    assert told[0].endswith(
        "6 of 600 rows cannot be used, left out (2 not_json, 1 missing_column, 2 wrong_type, 1 empty)"
    )
    assert [line.split(":")[0].strip() for line in told[1:6]] == [f"line {n}" for n in lines[:5]]
    assert "3 of 600 prompts have more than 16 tokens, left out" in told[7]
    assert "canary: reward 'verifier' failed on" in told[8] and "data.jsonl, line 1) with answer" in told[8]

    rows = read_metrics(run_dir)
    assert len(rows) == 2
    outcomes = Counter()
    for row in rows:
        assert (row["data/rows"], row["data/rows_broken"], row["data/prompts_dropped"]) == (600, 6, 3)
        assert {reason: row[f"data/rows_broken/{reason}"] for reason in BROKEN} == {
            reason: len(bad) for reason, bad in BROKEN.items()
        }
        trajectories = read_rollouts(run_dir / "rollouts" / f"step-{row['step']:06d}.jsonl")
        expected = Counter(expected_outcome(t) for t in trajectories)
        assert len(trajectories) == row["rollout/samples"] == 200
        for outcome in ("scored", "error", "timeout", "unparseable"):
            assert row[f"scoring/{outcome}"] == expected[outcome], (row["step"], outcome)
        failed = [t for t in trajectories if expected_outcome(t) != "scored"]
        assert row["rollout/dropped_samples"] == len(failed)
        assert all(t.reward.score is None and t.reward.note for t in failed)
        assert row["learner/trained_tokens"] == sum(t.length for t in trajectories if not t.reward.failed)
        outcomes += expected
    assert outcomes["error"] >= 8 + 10


@pytest.mark.slow
def test_a_run_above_a_limit_stops_and_says_so(recipe, tmp_path):
    with pytest.raises(DataError) as refused:
        train(load_config(recipe, ["data.max_broken_share=0.0099"]), tmp_path / "refused")
    assert refused.value.what == "6 of 600 rows cannot be used"
    assert refused.value.details["needed"] == "at most 0.0099 of the rows (data.max_broken_share)"

    data = load_config(recipe, []).stages[0].data.path
    held_out = [f"evaluation.data.path={data}", "evaluation.data.overlong_prompts=drop"]
    with pytest.raises(
        DataError
    ) as refused:  # the limit of the data to train on is not that of an evaluation
        train(load_config(recipe, [*held_out, "data.max_broken_share=0.5"]), tmp_path / "refused")
    assert refused.value.what == "6 of 600 rows cannot be used"
    assert refused.value.details["needed"] is None

    overrides = ["scoring.max_failure_share=0.05", "scoring.canary=false"]
    with pytest.raises(ScoringError) as stopped:
        train(load_config(recipe, overrides), tmp_path / "stopped")
    trajectories = read_rollouts(tmp_path / "stopped" / "rollouts" / "step-000001.jsonl")
    failed = sum(expected_outcome(t) != "scored" for t in trajectories)
    assert stopped.value.what.startswith(f"{failed} of 200 samples could not be scored (")
    assert stopped.value.details["needed"] == "at most 5% (scoring.max_failure_share)"
    assert "verifier.py" in stopped.value.details["found"]
    assert stopped.value.exit_status == 1 and not read_metrics(tmp_path / "stopped")
