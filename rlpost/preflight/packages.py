"""The packages that a recipe needs, against the table of tested versions."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.dependent import evaluation_environment
from rlpost.config.held_out import run_rewards, sampling_stages
from rlpost.config.schema import RunConfig
from rlpost.preflight.finding import ERROR, OK, UNTRIED, WARNING, Finding, Level
from rlpost.sizing.target import Target
from rlpost.versions import CONFLICT, DEPENDENCIES, MISSING, NEW, Installed, companions, inspect
from rlpost.versions import OK as FITS


def package_findings(config: RunConfig, target: Target, path: list[str] | None = None) -> Iterator[Finding]:
    """One line for all that is as it should be, and one for each package that is not.

    Args:
        path: folders whose metadata tells what is installed; `sys.path` without it.
    """
    fitting = []
    for name in needed_packages(config):
        seen = inspect(name, path)
        if seen.verdict == FITS:
            fitting.append(f"{name} {seen.version}")
        else:
            yield _unfit(seen, target)
    for name, (version, fits) in companions(path).items():
        if not fits:
            yield Finding(
                f"package {name}",
                ERROR,
                f"{version} is built for CUDA beside a CPU torch: transformers fails to import",
                f"pip uninstall {name}",
            )
    shown = [entry for entry in fitting if DEPENDENCIES[entry.split()[0]].extra or entry.startswith("torch ")]
    rest = len(fitting) - len(shown)
    yield Finding("packages", OK, ", ".join([*shown, f"{rest} more"]) + ", as supported")


def needed_packages(config: RunConfig) -> list[str]:
    """Rows of the table of versions: what every run needs, then what this recipe names."""
    names = [row.name for row in DEPENDENCIES.values() if row.required]
    if config.cluster.mode == "ray":
        names.append("ray")
    if sampling_stages(config)[0].rollout.engine == "vllm":
        names.append("vllm")
    if config.learner.backend == "deepspeed":
        names.append("deepspeed")
    if any(reward.function.partition(":")[0] == "llm_judge" for reward in run_rewards(config)):
        names.append("openai")
    environments = [stage.environment for stage in config.stages] + [evaluation_environment(config)]
    kinds = {environment.name.partition(":")[0] for environment in environments if environment is not None}
    return names + [name for name in ("gymnasium", "mcp") if name in kinds]


def _unfit(seen: Installed, target: Target) -> Finding:
    row = seen.dependency
    found = ", ".join(f"{name} {version}" for name, version in seen.found.items())
    level: Level = ERROR
    if seen.verdict == MISSING:
        what, remedy = f"not installed; needed for {row.needed_for}", row.install
    elif seen.verdict == CONFLICT:
        what = f"{found}: they overwrite each other's files"
        remedy = f"pip uninstall {' '.join(row.distributions)}, then install the one for this machine"
    else:
        what, remedy = f"{found}, supported: {row.supported}. Outside, {row.outside}", row.install
        # What an adapter imports it demands in its range; the others are tried as they are.
        level = WARNING if seen.verdict == NEW and row.required else ERROR
    if not target.here:
        level, what = UNTRIED, f"on this machine {what}; the run's own are not looked at"
        remedy = f"there: {remedy}"
    return Finding(f"package {row.name}", level, what, remedy)
