"""From a plan to single runs: their recipes, their directories, and which of them are done already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpost.comparison.plan import Arm, Plan, Task
from rlpost.errors import UserError

if TYPE_CHECKING:
    from rlpost.config.schema import RunConfig

RECIPE, SUMMARY, POLICY, LOG = "recipe.yaml", "summary.json", "policy", "log.txt"
FREE_KEYS = ("name", "output", "cluster", "checkpoint", "monitor")
"""Top-level keys that may change between two calls: they do not touch a run's result."""


@dataclass(frozen=True)
class ComparedRun:
    """One training.

    Attributes:
        task: its task's name.
        arm: its arm's name; None for the stages that all arms share.
        seed: of everything random.
        config: the recipe, as `rlpost train` gets it.
        directory: the run directory.
        needs: the run whose policy it starts from.
    """

    task: str
    arm: str | None
    seed: int
    config: RunConfig
    directory: Path
    needs: ComparedRun | None = None

    @property
    def label(self) -> str:
        """As progress lines name it."""
        return f"{self.task}  {self.arm or 'shared stages'}  seed {self.seed}"

    @property
    def complete(self) -> bool:
        return (self.directory / SUMMARY).is_file()


def runs_of(plan: Plan, output: Path, jobs: int) -> list[ComparedRun]:
    """Every run of a plan, a shared one before those that need it.

    Args:
        jobs: more than one at a time get one torch thread each.
    """
    runs = []
    for task in plan.tasks:
        for seed in plan.seeds:
            shared = None
            if task.shared:
                directory = output / "shared" / task.name / f"seed-{seed}"
                config = _alone(shared_recipe(task), f"{task.name}-shared", seed, output, jobs)
                shared = ComparedRun(task.name, None, seed, config, directory)
                runs.append(shared)
            for arm in task.arms:
                directory = output / "runs" / task.name / arm.name / f"seed-{seed}"
                config = arm_recipe(arm, task.shared, shared)
                config = _alone(config, f"{task.name}-{arm.name}", seed, output, jobs)
                runs.append(ComparedRun(task.name, arm.name, seed, config, directory, shared))
    return runs


def shared_recipe(task: Task) -> RunConfig:
    """The stages that all arms have in common.

    Every arm evaluates the policy that they lead to, at its step 0, so this run asks one problem only;
    for that it borrows the rewards of the stages after it.
    """
    whole = task.arms[0].config
    rewards = next((stage.rewards for stage in whole.stages if stage.rewards), [])
    stages = [
        stage if stage.rewards else stage.model_copy(update={"rewards": rewards})
        for stage in whole.stages[: task.shared]
    ]
    evaluation = whole.evaluation.model_copy(
        update={"problems": 1, "samples_per_problem": 1, "every": 0, "others": {}}
    )
    return whole.model_copy(update={"stages": stages, "evaluation": evaluation})


def arm_recipe(arm: Arm, skip: int, shared: ComparedRun | None) -> RunConfig:
    """The stages of an arm after the first `skip`, from the policy that `shared` leaves."""
    if shared is None:
        return arm.config
    model = arm.config.model.model_copy(
        update={"init": str((shared.directory / POLICY).absolute()), "revision": None}
    )
    return arm.config.model_copy(update={"stages": arm.config.stages[skip:], "model": model})


def pending(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """The runs that are still to be trained; complete ones of the same recipe are not.

    A shared run is left out when all that need it are complete.

    Raises:
        UserError: a directory holds a run of another recipe.
    """
    for run in runs:
        _check_directory(run)
    open_runs = [run for run in runs if not run.complete]
    wanted = {id(run.needs) for run in open_runs if run.needs is not None}
    return [run for run in open_runs if run.arm is not None or id(run) in wanted]


def check_output(output: Path) -> None:
    """Refuse a directory with files of something else.

    Raises:
        UserError: it is not empty, and not a comparison's.
    """
    known = {"runs", "shared"}
    if not output.exists() or (output.is_dir() and known & {path.name for path in output.iterdir()}):
        return
    if not output.is_dir() or any(output.iterdir()):
        raise UserError(
            "the output directory holds something else than a comparison",
            where=output,
            needed="an empty or new directory, or that of a comparison to go on with",
        )


def _check_directory(run: ComparedRun) -> None:
    from rlpost.config.yaml_text import read_document

    path = run.directory / RECIPE
    if not path.is_file():
        if run.directory.is_dir() and any(run.directory.iterdir()):
            raise UserError(
                "a run directory has no recipe, so it cannot be told whose results these are",
                where=run.directory,
                remedy="remove it, or choose another --output",
            )
        return
    found, wanted = _comparable(read_document(path).data, run), _comparable(tree_of(run.config), run)
    if found != wanted:
        keys = _differing("", found, wanted)
        raise UserError(
            "a run directory holds a run of another recipe",
            where=run.directory,
            found=f"other values of {', '.join(keys[:6])}{' and more' if len(keys) > 6 else ''}",
            remedy="choose another --output, or remove that directory to train it again",
        )


def tree_of(config: RunConfig) -> dict[str, Any]:
    """A recipe as plain data, as it reads back from YAML."""
    return config.model_dump(mode="json")


def _comparable(tree: Mapping[str, Any], run: ComparedRun) -> dict[str, Any]:
    kept = {key: value for key, value in tree.items() if key not in FREE_KEYS}
    if run.needs is not None:  # the policy's place follows from the directory's
        kept["model"] = {key: value for key, value in kept["model"].items() if key != "init"}
    return kept


def _differing(prefix: str, one: Any, other: Any) -> list[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = list(dict.fromkeys([*one, *other]))
        pairs = [(key, one.get(key), other.get(key)) for key in keys]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = list(zip(map(str, range(len(one))), one, other, strict=True))
    else:
        return [prefix] if one != other else []
    return [key for name, a, b in pairs for key in _differing(f"{prefix}.{name}".lstrip("."), a, b)]


def _alone(config: RunConfig, name: str, seed: int, output: Path, jobs: int) -> RunConfig:
    """The recipe of one run among `jobs` at a time."""
    changes: dict[str, Any] = {"name": name, "seed": seed, "output": str(output)}
    if jobs > 1:
        changes["cluster"] = config.cluster.model_copy(update={"threads": 1})
    return config.model_copy(update=changes)
