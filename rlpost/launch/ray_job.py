"""RayJob: everything that a Ray cluster is given for a run, to the letter."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpost.config.schema import RunConfig
from rlpost.errors import UserError
from rlpost.launch.job import LAUNCHER, RUN_ID, Job, Rendered, command_of
from rlpost.launch.named_files import NamedFiles, named_files
from rlpost.launch.templates import render
from rlpost.launch.working_directory import Packing, as_size, pack

LIMIT = 100 * 1024**2
"""Bytes that Ray's job server takes in one request."""
STOP_MARGIN_S = 60
"""Beside checkpoint.grace_s, for what ends after the checkpoint."""
ARCHIVE = "working_dir.zip"
RECIPE, SCRIPT = "recipe.yaml", "driver.sh"
"""In the run directory; in the archive they have names that no file of the user has."""


@dataclass(frozen=True)
class RayJob:
    """Everything that a cluster is given.

    Attributes:
        address: of the cluster, where one is named.
        submission_id: names the job on the cluster.
        texts: the recipe and the driver's script, by their names in the packed working directory.
        request: what Ray's `submit_job` is called with; its `working_dir` is `ARCHIVE`.
        packing: the files of the working directory.
        named: what the recipe names.
    """

    job: Job
    address: str | None
    submission_id: str
    texts: Mapping[str, str]
    request: Mapping[str, Any]
    packing: Packing
    named: NamedFiles

    def rendered(self) -> Rendered:
        """What `--dry-run` shows, and the folder `launch` of the run directory keeps."""
        command = ["ray", "job", "submit", *(["--address", self.address] if self.address else [])]
        command += ["--submission-id", self.submission_id, "--working-dir", ARCHIVE]
        environment = {"env_vars": self.request["runtime_env"]["env_vars"]}
        command += ["--runtime-env-json", json.dumps(environment)]
        command += ["--metadata-json", json.dumps(self.request["metadata"])]
        if cpus := self.request["entrypoint_num_cpus"]:
            command += ["--entrypoint-num-cpus", f"{cpus:g}"]
        command += ["--", *shlex.split(self.request["entrypoint"])]
        files = {
            **dict(zip((RECIPE, SCRIPT), self.texts.values(), strict=True)),
            "job.json": json.dumps(self.request, indent=2) + "\n",
            "packed.txt": self.listing(),
        }
        return Rendered(files, [command])

    def listing(self) -> str:
        """The packed files with their sizes, what stays here, and what must be on the cluster already."""
        packing = self.packing
        lines = [f"{size:>12}  {name}" for name, size in packing.sizes.items()]
        made = sum(len(text.encode()) for text in self.texts.values())
        for place, (name, text) in zip((RECIPE, SCRIPT), self.texts.items(), strict=True):
            lines.append(f"{len(text.encode()):>12}  {name}   (made for this run: {place} above)")
        count = len(packing.sizes) + len(self.texts)
        lines.append(f"{packing.total + made:>12}  bytes in {count} files: {as_size(packing.total + made)}")
        if left_out := [name for name in packing.left_out if not name.endswith("__pycache__/")]:
            lines.append(f"stays here: {', '.join(left_out)}")
        if self.named.outside:
            lines.append("outside the working directory, must be there on every machine of the cluster:")
            lines += [f"  {path}" for path in sorted(self.named.outside)]
        return "\n".join(lines) + "\n"


def render_ray(job: Job, address: str | None, root: Path, submission_id: str | None = None) -> RayJob:
    """Everything that would be given to the cluster; nothing is asked or written.

    Args:
        address: of the cluster, None to look for one here.
        root: the working directory, which the run's machines get a copy of.
        submission_id: the job's name on the cluster, where it is not the run's.

    Raises:
        UserError: the working directory cannot be packed, or is too large for Ray.
    """
    import yaml

    config, root = job.config, root.resolve()
    submission_id = submission_id or job.run_id
    named = named_files(yaml.safe_load(job.recipe), root)
    folders = [root / folder for folder in (config.output, config.launch.output) if folder]
    packing = pack(root, config.launch.ray.exclude, named.packed, [*folders, job.directory])
    refuse_too_large(packing)
    # At the top of the archive, because parts of an algorithm are looked up beside the recipe.
    recipe, script = f"{job.run_id}.yaml", f"{job.run_id}.sh"
    texts = {
        recipe: yaml.safe_dump(named.tree, sort_keys=False, allow_unicode=True),
        script: render(
            "ray.sh.j2",
            run_id=job.run_id,
            setup=config.launch.setup,
            rlpost=command_of(config, shared=False),
            missing=missing_message(config),
            recipe=recipe,
            directory=job.directory,
        ),
    }
    grace = int(config.checkpoint.grace_s) + STOP_MARGIN_S
    request = {
        "entrypoint": f"exec bash {shlex.quote(script)}",
        "submission_id": submission_id,
        "runtime_env": {
            "working_dir": ARCHIVE,
            "env_vars": {
                **config.launch.environment,
                RUN_ID: job.run_id,
                LAUNCHER: f"ray:{submission_id}",
                # Ray's own time between SIGTERM and SIGKILL is too short for a checkpoint.
                "RAY_JOB_STOP_WAIT_TIME_S": str(grace),
            },
        },
        "metadata": {"run_id": job.run_id, "name": config.name, "directory": str(job.directory)},
        "entrypoint_num_cpus": config.launch.ray.driver_cpus,
        "entrypoint_num_gpus": 0,
    }
    return RayJob(job, address, submission_id, texts, request, packing, named)


def refuse_too_large(packing: Packing) -> None:
    """Raise a UserError where Ray would not take what is packed."""
    if packing.total > LIMIT:
        biggest = ", ".join(f"{name} ({as_size(packing.sizes[name])})" for name in packing.biggest())
        raise UserError(
            "the working directory is too large to be sent to a Ray cluster",
            where=packing.root,
            found=f"{as_size(packing.total)} in {len(packing.sizes)} files; the largest: {biggest}",
            needed=f"at most {as_size(LIMIT)}",
            remedy="leave files out with launch.ray.exclude: ['*.bin', 'data/'], put large ones where all "
            "machines see them, or launch from a smaller folder",
        )


def missing_message(config: RunConfig) -> str:
    """For a machine where the command is not found."""
    return (
        f"error: `{command_of(config, shared=False)}` does not run on the cluster's machine that this job "
        "started on: install rlpost there, or say with launch.rlpost what the command is (such as "
        "/opt/venv/bin/rlpost) and with launch.setup what has to be run before it"
    )
