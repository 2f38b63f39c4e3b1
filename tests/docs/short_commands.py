"""The shown commands of rlpost, run with fewer and smaller steps; what runs those of other programs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from shown_commands import Shown
from typer.testing import CliRunner

from rlpost.cli import app
from rlpost.comparison.plan import make_plan
from rlpost.config import dump_config, load_config
from rlpost.config.schema import ModelConfig, MonitorConfig, RunConfig, TinyModelConfig, TrainConfig

ELSEWHERE = {
    r"make (train|install|test|docs)": "the Makefile: `make test` is how this test is run",
    r"python3 -m venv (\.venv|gather)": "the Makefile",
    r"(\.venv/bin/|gather/bin/)?pip (install|wheel|uninstall) .*": "the Makefile, or by hand",
    r"python -m rlpost\.environments\.experts .*": "run as it is",
    r"python benchmarks/\w+\.py.*": "needs runs of an hour: by hand",
    r"pytest -m gpu tests/gpu": "needs GPUs",
    r"docker (build|run) .*": "docker/check.py runs the images' steps without Docker",
    r"kubectl .*": "needs a cluster: tests/launch validates what is applied",
    r"(scancel|squeue|sbatch) .*": "tests/launch/test_slurm_jobs.py",
    r"ray (start|job) .*": "tests/launch/test_ray_jobs.py",
}
"""Commands of other programs, as patterns, and what runs them."""
TINY = {"hidden_size": 32, "layers": 1, "heads": 1, "intermediate_size": 32, "max_positions": 65536}


def elsewhere(command: Shown) -> bool:
    """Whether it is known what runs a command of another program."""
    return any(re.fullmatch(pattern, " ".join(command.words)) for pattern in ELSEWHERE)


def run_short(command: Shown, folder: Path) -> None:
    """Run a command of rlpost, or of its modules, in the scratch project `folder`: a second or two."""
    if command.program == "python":
        subprocess.run([sys.executable, *command.words[1:]], check=True, timeout=120)
        return
    kind, words = command.words[1], list(command.words[2:])
    RUNNERS.get(kind, _as_it_is)(kind, words, command.gpus)


def _run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, f"{words}\n{result.output[-1500:]}\n{result.exception!r}"
    return result.output


def _as_it_is(kind: str, words: list[str], gpus: bool) -> None:
    _run(kind, *map(_stand_in, words))


def _train(kind: str, words: list[str], gpus: bool) -> None:
    recipe, overrides, options = words[0], *_apart(words[1:])
    # tests/launch/test_ray_jobs.py trains quickstart_ray.yaml
    elsewhere_too = recipe == "configs/quickstart_ray.yaml"
    known = gpus or "--dry-run" in options or elsewhere_too
    if known or not _has_its_data(load_config(recipe, overrides)):
        _run("train", recipe, *overrides, "--dry-run")
    elif "--resume" in options:
        _run("train", small(recipe, overrides), "--output", "runs/resumed")
        _run("train", small(recipe, overrides), "--output", "runs/resumed", "--resume")
    else:
        _run("train", small(recipe, overrides), *map(_stand_in, options))


def _check(kind: str, words: list[str], gpus: bool) -> None:
    recipe, overrides, options = words[0], *_apart(words[1:])
    if gpus or "--no-hub" in options:  # nothing of the model is looked up
        _run("check", recipe, *overrides, *{*options, "--no-hub"})
    else:
        _run("check", small(recipe, overrides), *options)


def _explain(kind: str, words: list[str], gpus: bool) -> None:
    """explain; and pivots and guide, which need a model that has learnt: tests/pivots, tests/guidance."""
    recipe, overrides, _ = words[0], *_apart(words[1:])
    _run("explain", recipe, *overrides)


def _launch(kind: str, words: list[str], gpus: bool) -> None:
    """Shown, not started: tests/launch starts runs on a real Ray cluster and with a real Slurm."""
    _run(kind, *words, *(option for option in ("--dry-run", "--no-check") if option not in words))


def _compare(kind: str, words: list[str], gpus: bool) -> None:
    """Planned, not trained: tests/comparison has trainings."""
    arms = Path(words[words.index("--arms") + 1]) if "--arms" in words else None
    seeds = int(words[words.index("--seeds") + 1]) if "--seeds" in words else 3
    recipes = [Path(w) for w in words if w.endswith(".yaml") and Path(w) != arms]
    overrides = [w for w in words if re.match(r"[\w.]+=", w)]
    plan = make_plan(
        recipes, overrides, arms_file=arms, seeds=seeds, different_budgets="--different-budgets" in words
    )
    assert len(plan.seeds) == seeds


def _not_here(kind: str, words: list[str], gpus: bool) -> None:
    """eval, regrade: tests/benchmarking and tests/cli run each of their options on models and servers."""


RUNNERS: dict[str, Callable[[str, list[str], bool], None]] = {
    "train": _train,
    "compare": _compare,
    "eval": _not_here,
    "regrade": _not_here,
    "launch": _launch,
    "check": _check,
    **dict.fromkeys(("explain", "guide", "pivots"), _explain),
}


def small(recipe: str, overrides: Sequence[str]) -> str:
    """A recipe with its changes, written out to run here at once: a tiny model, a rank, a step a stage."""
    config = load_config(recipe, overrides)
    model = config.model
    if model.init != "tiny" and not Path(model.init).exists():
        model = ModelConfig(init="tiny", tiny=TinyModelConfig(**TINY))
    stages = [
        stage.model_copy(
            update={"train": _short(stage.train), "data": stage.data.model_copy(update={"limit": 64})}
        )
        for stage in config.stages
    ]
    for index, stage in enumerate(stages):
        if stage.critic is not None:
            critic = stage.critic.model_copy(update={"warmup_steps": 0})
            stages[index] = stage.model_copy(update={"critic": critic})
    changes = {"model": model, "stages": stages, "monitor": MonitorConfig(tensorboard=False)}
    if config.evaluation.data is not None or config.stages[-1].data.task is not None:
        changes["evaluation"] = config.evaluation.model_copy(update={"problems": 4})
    if config.cluster.learner_ranks > 1:
        changes["cluster"] = config.cluster.model_copy(update={"learner_ranks": 1})
    path = Path(f"short-{Path(recipe).name}")
    path.write_text(dump_config(config.model_copy(update=changes)), encoding="utf-8")
    return str(path)


def _short(train: TrainConfig) -> TrainConfig:
    fewer = {"prompts_per_step": min(4, train.prompts_per_step)} if train.updates_per_step == 1 else {}
    return train.model_copy(update={"steps": 1, **fewer})


def _apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Changes of keys, and options."""
    overrides = [word for word in words if re.match(r"[\w.]+=", word)]
    return overrides, [word for word in words if word not in overrides]


def _has_its_data(config: RunConfig) -> bool:
    """Whether its files are there, and not what earlier commands would have made at full length."""
    paths = [stage.data.path for stage in config.stages]
    return all(Path(path).exists() for path in paths if path is not None)


def _stand_in(word: str) -> str:
    """What a placeholder of a page means in the scratch project."""
    if re.fullmatch(r"RUN_DIR|RUN|runs/[\w.-]*\.\.\.", word):
        found = sorted(Path("runs").glob("*/config.yaml"), key=lambda path: path.stat().st_mtime)
        if not found:
            _run("train", "recipe.yaml", "--output", "runs/stand-in")
            return "runs/stand-in"
        return str(found[-1].parent)
    return "runs/named" if word == "DIR" else word
