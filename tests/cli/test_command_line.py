"""The command line: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest
import yaml

from rlpost import cli
from rlpost.cluster.ray_group import RemoteTracebackError
from rlpost.errors import ActorLostError, RlpostError, RolloutError


@pytest.fixture
def rlpost(monkeypatch, capfd, project_root):
    """Run the command line in this process: (exit status, stdout, stderr)."""
    monkeypatch.chdir(project_root)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rlpost", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        captured = capfd.readouterr()
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return run


def run_in_a_process(root, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlpost.cli", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)


def test_a_mistake_of_the_user_is_one_message_on_stderr_with_status_2(project_root):
    done = run_in_a_process(
        project_root, "train", "configs/quickstart.yaml", "stages.rl.train.step=3", "--dry-run"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: unknown key `step`\n"
        "  where:  stages.rl.train.step, command line: stages.rl.train.step=3\n"
        "  remedy: did you mean `steps`?\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "configs/nothing.yaml"), "the configuration file does not exist"),
        (("train", "configs/quickstart.yaml", "stages.rl.train.updates_per_step=7"), "512 / 7"),
        (("train", "configs/gsm8k.yaml", "model.init=tiny", "data.path=missing.jsonl"), "missing.jsonl"),
        (("explain", "configs/quickstart.yaml", "seed"), "not of the form key=value"),
        (("eval", "tiny"), "nothing to evaluate on"),
        (("eval", "tiny", "--benchmarks", "gsm9k"), "gsm9k"),
        (("regrade", "missing"), "no finished evaluation"),
        (("score", "gsm8k", "missing.jsonl"), "missing.jsonl"),
        (("score", "gsm8k", "missing.jsonl", "--option", "x"), "not of the form NAME=VALUE"),
        (("algorithms", "grop"), "there is no algorithm 'grop'"),
        (("replay", "missing", "--step", "1"), "missing"),
        (("report", "missing"), "missing"),
        (("compare", "configs/nothing.yaml", "--arms", "configs/lab/arms.yaml"), "configs/nothing.yaml"),
        (("compare", "configs/quickstart.yaml", "--arms", "missing.yaml"), "missing.yaml"),
        (("compare", "configs/quickstart.yaml"), "nothing to compare it with"),
        (("compare", "configs/quickstart.yaml", "configs/quickstart.yaml"), "two recipes have the same name"),
        (
            ("compare", "configs/quickstart.yaml", "configs/gsm8k.yaml"),
            "the same task and budget",
        ),
        (("compare", "seed=3"), "at least one CONFIG"),
    ],
)
def test_bad_input_ends_with_status_2_and_no_traceback(rlpost, arguments, message):
    status, _, err = rlpost(*arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err


def test_wrong_usage_ends_with_status_2(rlpost):
    status, _, err = rlpost("trian")
    assert status == 2
    assert "Did you mean 'train'?" in err
    assert rlpost("replay", "somewhere")[0] == 2


def test_a_failed_run_ends_with_status_1_and_its_message(rlpost, monkeypatch):
    def fail(*_):
        raise RolloutError("the engine failed", where="rollout worker 1", found="out of memory")

    monkeypatch.setattr("rlpost.training.run.train", fail)
    status, _, err = rlpost("train", "configs/quickstart.yaml")
    assert status == 1
    assert err == "error: the engine failed\n  where:  rollout worker 1\n  found:  out of memory\n"


def test_an_unexpected_failure_shows_its_traceback_and_last_the_root_cause(rlpost, monkeypatch):
    def fail(*_):
        try:
            raise ZeroDivisionError("the root\nof it")
        except ZeroDivisionError as error:
            raise KeyError("a consequence") from error

    monkeypatch.setattr("rlpost.training.run.train", fail)
    status, _, err = rlpost("train", "configs/quickstart.yaml")
    assert status == 1
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1] == "error: ZeroDivisionError: the root"


def test_an_interrupted_training_says_how_to_resume(rlpost, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlpost.training.run.train", interrupt)
    status, _, err = rlpost(
        "train", "configs/quickstart.yaml", "data.instruction=say it", "--output", "my run"
    )
    assert status == 130
    resume = "rlpost train configs/quickstart.yaml 'data.instruction=say it' --output 'my run' --resume"
    assert err == (
        f"\ninterrupted; resume with: {resume}; `rlpost stop 'my run'` would have saved a checkpoint first\n"
    )


def test_a_terminated_training_says_how_to_resume(rlpost, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("rlpost.training.run.train", lambda *_: signal.raise_signal(signal.SIGTERM))
    status, _, err = rlpost("train", "configs/quickstart.yaml")
    assert status == 143
    assert re.fullmatch(
        r"\nended by SIGTERM; resume with: rlpost train configs/quickstart.yaml "
        r"--output runs/quickstart-[\d-]{15}-[0-9a-f]{4} --resume\n",
        err,
    )
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("kind", "shown"), [(RlpostError, True), (ActorLostError, False)])
def test_what_nobody_raised_on_purpose_shows_its_remote_traceback_before_the_message(
    rlpost, monkeypatch, kind, shown
):
    def fail(*_):
        raise kind("learner 0 failed", found="ZeroDivisionError: by zero") from RemoteTracebackError("frames")

    monkeypatch.setattr("rlpost.training.run.train", fail)
    status, _, err = rlpost("train", "configs/quickstart.yaml")
    assert status == 1
    assert err == ("frames\n" if shown else "") + (
        "error: learner 0 failed\n  found:  ZeroDivisionError: by zero\n"
    )


def test_a_dry_run_prints_the_resolved_recipe_and_the_plan_as_one_yaml_document(rlpost, tmp_path):
    output = tmp_path / "run"
    status, out, err = rlpost(
        "train", "configs/quickstart.yaml", "seed=5", "--output", str(output), "--dry-run"
    )
    assert (status, err) == (0, "")
    resolved = yaml.safe_load(out)
    assert resolved["seed"] == 5
    assert [stage["algorithm"] for stage in resolved["stages"]] == [{"base": "sft"}, {"base": "grpo"}]
    assert "# stage 2 of 2: `rl`" in out
    assert not output.exists()


def test_explain_prints_the_batch_arithmetic(rlpost):
    status, out, _ = rlpost("explain", "configs/quickstart.yaml")
    assert status == 0
    assert "64 prompts x 8 samples = 512 sequences" in out


def test_algorithms_prints_the_table_a_row_or_json(rlpost):
    _, table, _ = rlpost("algorithms")
    assert table.splitlines()[0] == "supervised:"
    assert table.splitlines()[1].startswith("  sft ")
    _, row, _ = rlpost("algorithms", "grpo")
    assert row.startswith("grpo: ")
    assert "advantage    A_i = (R_i - mean(R)) / (std_sample(R) + 1e-06)" in row
    _, text, _ = rlpost("algorithms", "--json")
    assert json.loads(text)["dapo"]["source"] == "arXiv 2503.14476"
    assert list(json.loads(rlpost("algorithms", "rloo", "--json")[1])) == ["rloo"]


def test_algorithms_as_json_names_every_part_with_its_axis_kind_options_and_formula(rlpost):
    dapo = json.loads(rlpost("algorithms", "dapo", "--json")[1])["dapo"]
    assert dapo["family"] == "grpo"
    assert dapo["certain"].startswith("clip 0.2/0.28")
    parts = {part["axis"]: part for part in dapo["parts"]}
    assert parts["mask"]["term"] == 1
    assert parts["mask"]["kind"] == "clip"
    assert parts["mask"]["options"] == {"low": 0.2, "high": 0.28}
    assert parts["advantage"]["formula"] == "A_i = (R_i - mean(R)) / (std_sample(R) + 1e-06)"
    assert parts["selection"]["kind"] == "drop_uniform"
    assert parts["selection"]["term"] is None


def test_every_row_of_the_json_can_be_composed_from_its_parts_names(rlpost):
    from rlpost.estimator import ALGORITHMS, PARTS

    rows = json.loads(rlpost("algorithms", "--json")[1])
    assert list(rows) == list(ALGORITHMS)
    for name, row in rows.items():
        for part in row["parts"]:
            known = PARTS.get(part["axis"])
            assert known is None or part["kind"] in known, (name, part)
            assert part["formula"]


def test_score_prints_the_outcomes_and_writes_each_row(rlpost, tmp_path):
    rows = [
        {"completion": "so it is\n#### 18", "answer": "3 * 6 = <<3*6=18>>18\n#### 18"},
        {"completion": "so it is\n#### 19", "answer": "3 * 6 = <<3*6=18>>18\n#### 18"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "out.jsonl"
    status, out, _ = rlpost("score", "gsm8k", str(tmp_path / "in.jsonl"), "--output", str(output))
    assert status == 0
    assert "gsm8k: 2 completions" in out
    assert [json.loads(line)["score"] for line in output.read_text().splitlines()] == [1.0, 0.0]


def test_help_shows_every_command_and_an_example(rlpost):
    status, out, _ = rlpost("--help")
    assert status == 0
    commands = "train eval regrade score explain algorithms compare replay report"
    for command in commands.split():
        assert f" {command} " in out
        status, page, _ = rlpost(command, "--help")
        assert status == 0, page
    assert "rlpost train configs/quickstart.yaml" in out


def test_version_is_the_packages(rlpost):
    from rlpost import __version__

    assert rlpost("--version")[:2] == (0, f"{__version__}\n")
