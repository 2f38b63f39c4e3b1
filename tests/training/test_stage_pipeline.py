"""One recipe of three stages: what each starts from, when it is judged, what a kill in each of them costs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlpost.config import load_config
from rlpost.monitor import read_metrics
from rlpost.training import train
from rlpost.training.recording import read_rollouts

LAB = Path(__file__).parents[2] / "configs" / "lab" / "sft_otr_dcpo.yaml"
SMALL = (
    *(
        "model.tiny.hidden_size=32",
        "model.tiny.intermediate_size=64",
        "stages.dcpo.data.task_options.size=64",
    ),
    *("stages.sft.train.steps=4", "stages.otr.train.steps=4", "stages.dcpo.train.steps=4"),
    *("stages.sft.train.prompts_per_step=16", "stages.otr.train.prompts_per_step=16"),
    *("stages.dcpo.train.prompts_per_step=4", "stages.dcpo.train.samples_per_prompt=4"),
    *("evaluation.problems=8", "checkpoint.every=3"),
)


def learnt(run_dir):
    """All that must be equal between two runs of the same configuration."""
    rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(run_dir)]
    samples = [
        (t.id, t.token_ids) for path in sorted(run_dir.glob("rollouts/*")) for t in read_rollouts(path)
    ]
    evaluated = json.loads((run_dir / "summary.json").read_text())["eval"]
    return rows, samples, evaluated, (run_dir / "policy" / "model.safetensors").read_bytes()


def kill_at(step, run_dir, command):
    """Run until `step` steps are written down, then kill the driver."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while len(read_metrics(run_dir)) < step:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_run_of_three_stages_killed_in_each_of_them_ends_with_the_same_metrics_and_policy(tmp_path):
    whole = train(load_config(LAB, SMALL), tmp_path / "whole")
    rows, _, evaluated, _ = learnt(whole)
    assert [row["stage"] for row in rows] == ["sft"] * 4 + ["otr"] * 4 + ["dcpo"] * 4
    assert [(e["step"], e["next_stage"]) for e in evaluated["history"]] == [
        (0, "sft"),
        (4, "otr"),
        (8, "dcpo"),
        (12, "dcpo"),
    ]
    assert (evaluated["before"]["step"], evaluated["after"]["step"]) == (8, 12)

    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "rlpost.cli", "train", str(LAB), *SMALL, "--output", str(killed)]
    kill_at(2, killed, command)
    for step in (6, 10):
        kill_at(step, killed, [*command, "--resume"])
    train(load_config(LAB, SMALL), killed, resume=True)
    assert learnt(killed) == learnt(whole)
