"""What `rlpost launch slurm` writes, and what it says when there is no Slurm, or one that refuses."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rlpost.config import load_config
from rlpost.config.schema import RunConfig
from rlpost.errors import RlpostError, UserError
from rlpost.launch import Job
from rlpost.launch.slurm import render_slurm, submit
from rlpost.training.status import read_record

GOLDEN = Path(__file__).parent / "golden"
FOLDER = Path("/home/user/project")
RUN_ID = "quickstart-20260102-030405-abcd"
RECIPE = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
FOUR_NODES = (
    "machines={count: 4, accelerators: 8, cpus: 96, memory_gib: 900.5}",
    "launch.slurm={partition: gpu, account: our lab, qos: high, time: 2-00:00:00}",
    "launch.slurm.options=[--constraint=h100]",
    "launch.environment={NCCL_DEBUG: WARN, GREETING: it's fine}",
    "launch.setup=[module load cuda/12.8, export HF_HOME=/scratch/$USER/hub]",
)
CASES = {
    "slurm-one-node": ((), None),
    "slurm-four-nodes": (FOUR_NODES, None),
    "slurm-seeds": (("seed=3", "launch.slurm.requeue=false"), 4),
}


def job(*overrides, directory=Path("/shared/runs") / RUN_ID) -> Job:
    config: RunConfig = load_config(
        RECIPE, ["cluster.mode=ray", "cluster.address=auto", "launch.rlpost=rlpost", *overrides]
    )
    return Job(RUN_ID, config, directory)


@pytest.mark.parametrize("case", CASES)
def test_what_slurm_is_given_is_as_in_the_golden_file(case):
    overrides, seeds = CASES[case]
    rendered = render_slurm(job(*overrides), FOLDER, seeds)
    # The recipe is the configuration's own text, which other tests hold.
    text = str(rendered).replace(rendered.files["recipe.yaml"].rstrip(), "...")
    golden = GOLDEN / f"{case}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text.splitlines() == golden.read_text().splitlines()


@pytest.mark.parametrize("case", CASES)
def test_the_scripts_are_what_bash_and_shellcheck_take(case, tmp_path):
    overrides, seeds = CASES[case]
    scripts = []
    for name, text in render_slurm(job(*overrides), FOLDER, seeds).files.items():
        if name.endswith(".sh"):
            (tmp_path / name).write_text(text)
            scripts.append(str(tmp_path / name))
    subprocess.run(["bash", "-n", *scripts], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--shell=bash", "--severity=warning", *scripts], check=True)


def test_words_that_slurm_would_split_are_quoted_and_percent_signs_in_folders_are_no_patterns():
    script = render_slurm(job(directory=Path('/a b/50%/"c"')), FOLDER).files["slurm.sh"]
    assert '#SBATCH --output="/a b/50%%/\\"c\\"/launch/slurm-%j.out"' in script.splitlines()


def test_seeds_are_runs_in_directories_of_their_own_that_slurm_can_name(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, "echo '77;cluster'")
    done = submit(job("seed=3", directory=tmp_path / "run"), tmp_path, seeds=2)
    assert [name for _, name in done.runs] == ["77_3", "77_4"]
    for seed in (3, 4):
        directory = tmp_path / f"run-seed{seed}"
        record = read_record(directory)
        assert (record.state, record.launcher) == ("submitted", {"kind": "slurm", "job": f"77_{seed}"})
        assert record.id == f"{RUN_ID}-seed{seed}"
        assert load_config(directory / "launch" / "recipe.yaml").seed == seed
    assert "squeue --jobs=77" in str(done)


def test_a_refusal_is_told_in_the_words_of_sbatch_and_kept_in_the_record(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    with pytest.raises(RlpostError, match="refused") as caught:
        submit(job(directory=tmp_path / "run"), tmp_path)
    assert caught.value.details["found"] == "invalid partition specified: gpu"
    assert read_record(tmp_path / "run").state == "failed"


def test_without_slurm_the_message_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no Slurm here"):
        submit(job(directory=tmp_path / "run"), tmp_path)


def stand_in(folder, monkeypatch, body):
    """A command sbatch that does this."""
    folder = folder / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(f"#!/bin/sh\n{body}\n")
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
