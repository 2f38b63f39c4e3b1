"""Runs the steps of docker/Dockerfile for the CPU image without a container engine, and then rlpost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from containerfile import Instruction, Stage, arguments, chain, resolved

FINAL = "rlpost"
VALUES = {"KIND": "cpu"}
SEPARATED = "RLPOST_MOUNTS_ARE_SEPARATE"
PASSED_ON = re.compile(
    r"PIP_\w+|\w*_(CERT|CA_BUNDLE|CERT_FILE|CERT_DIR)|SSL_\w+|(https?|no)_proxy", re.IGNORECASE
)
"""Variables of this machine that say how pip reaches its index: the steps see them, no layer keeps them."""
ASIDE = "/run/of-the-machine"
SMALL = (
    "stages.warmup.train.steps=2",
    "stages.rl.train.steps=2",
    "evaluation.problems=20",
    "evaluation.every=0",
)
PROOFS = (
    ["rlpost", "--version"],
    ["rlpost", "train", "configs/quickstart.yaml", *SMALL, "--output", "/tmp/first-run"],
    ["rlpost", "launch", "kubernetes", "--help"],
)


class Layers:
    """Stages as layers over a clean root, by overlay mounts."""

    def __init__(self, stages: list[Stage], root: Path, repository: Path, folder: Path) -> None:
        self.stages, self.root, self.repository, self.folder = stages, root.resolve(), repository, folder
        self.values = arguments(stages) | VALUES
        self.built: dict[str, Path] = {}
        self.passed, self.passed_paths = _passed_on()

    def build(self, name: str) -> Path:
        """The mounted file system of a stage, all steps done."""
        if name in self.built:
            return self.built[name]
        stage = next(stage for stage in self.stages if stage.name == name)
        base = resolved(stage.base, self.values)
        known = any(other.name == base for other in self.stages)
        below = (
            [self.folder / below.name / "upper" for below in chain(self.stages, base, self.values)]
            if known
            else []
        )
        if known:
            self.build(base)
        for instruction in stage.instructions:
            if source := instruction.flags.get("from"):
                self.build(source)
        merged = self._mount(name, [*below[::-1], self.root])
        started = time.monotonic()
        for instruction in stage.instructions:
            self._run(instruction, stage, merged)
        _say(f"stage {name}: {time.monotonic() - started:.0f} s, layer {_size(self.folder / name / 'upper')}")
        self.built[name] = merged
        return merged

    def _mount(self, name: str, below: Sequence[Path]) -> Path:
        upper, work, merged = (self.folder / name / part for part in ("upper", "work", "merged"))
        for path in (upper, work, merged):
            path.mkdir(parents=True)
        lower = ":".join(str(path) for path in below)
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        _command(["mount", "-t", "overlay", "overlay", "-o", options, str(merged)])
        _command(["mount", "--rbind", "/dev", str(merged / "dev")])
        _command(["mount", "-t", "proc", "proc", str(merged / "proc")])
        for path in [Path("/etc/resolv.conf"), *self.passed_paths]:
            inside = path if path not in self.passed_paths else Path(f"{ASIDE}{path}")
            target = merged / inside.relative_to("/")
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
            _command(["mount", "--bind", "--read-only", str(path), str(target)])
        return merged

    def _run(self, instruction: Instruction, stage: Stage, merged: Path) -> None:
        place, environment = self.state(stage, instruction)
        if instruction.keyword == "RUN":
            _say(f"{stage.name}: {instruction.value[:100]}")
            self.inside(merged, ["/bin/sh", "-c", instruction.value], place, environment)
        elif instruction.keyword == "COPY":
            source = instruction.flags.get("from")
            *paths, target = instruction.words
            start = self.repository if source is None else self.folder / source / "merged"
            for path in paths:
                destination = merged / (
                    place / target if not target.startswith("/") else Path(target)
                ).relative_to("/")
                if len(paths) > 1 or target.endswith("/") or target == ".":
                    destination = destination / Path(path).name
                destination.parent.mkdir(parents=True, exist_ok=True)
                skipped = shutil.ignore_patterns("__pycache__", "*.pyc") if source is None else None
                found = start / path.lstrip("/")
                if found.is_dir():
                    shutil.copytree(found, destination, symlinks=True, ignore=skipped, dirs_exist_ok=True)
                else:
                    shutil.copy2(found, destination)
        elif instruction.keyword == "WORKDIR":
            (merged / Path(instruction.value).relative_to("/")).mkdir(parents=True, exist_ok=True)

    def state(self, stage: Stage, until: Instruction | None = None) -> tuple[Path, dict[str, str]]:
        """The working directory and the variables before an instruction."""
        place, environment = (
            Path("/"),
            {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        for below in chain(self.stages, stage.name, self.values):
            for instruction in below.instructions:
                if instruction is until:
                    return place, environment
                if instruction.keyword == "WORKDIR":
                    place = Path(instruction.value)
                elif instruction.keyword == "ENV":
                    environment |= {
                        name: resolved(text, environment) for name, text in instruction.pairs.items()
                    }
        return place, environment

    def inside(
        self,
        merged: Path,
        command: Sequence[str],
        place: Path,
        environment: Mapping[str, str],
        user: str = "0:0",
    ) -> None:
        """Run a command in the file system of a stage."""
        home = "/root" if user == "0:0" else "/home/rlpost"
        script = 'cd "$0" && exec "$@"'
        _command(
            ["chroot", f"--userspec={user}", str(merged), "/bin/sh", "-c", script, str(place), *command],
            {"HOME": home, **self.passed, **environment},
        )


def in_root(stages: list[Stage], root: Path, repository: Path, keep: bool) -> None:
    """Build the CPU image's layers over a clean root, and run rlpost in them as the image's user.

    Raises:
        SystemExit: this is not root, or a step failed.
    """
    if os.geteuid() != 0:
        sys.exit("error: --install changes roots and mounts, so it needs root; --venv does not")
    if SEPARATED not in os.environ:
        os.environ[SEPARATED] = "1"
        own = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        os.execvp(own[0], own)
    folder = root.resolve().with_name(f"{root.name}.layers")
    folder.mkdir()
    started = time.monotonic()
    try:
        layers = Layers(stages, root, repository, folder)
        merged = layers.build(FINAL)
        final = next(stage for stage in stages if stage.name == FINAL)
        place, environment = layers.state(final)
        user = [i.value for i in final.instructions if i.keyword == "USER"][-1]
        parts = [root, *(folder / stage.name / "upper" for stage in chain(stages, FINAL, layers.values))]
        sizes = ", ".join(_size(part) for part in parts)
        for command in PROOFS:
            _say(f"as user {user}: {' '.join(command)}")
            layers.inside(merged, command, place, environment, user)
        _say(f"ok after {time.monotonic() - started:.0f} s; clean root and the image's own layers: {sizes}")
    finally:
        if not keep:
            _command(["umount", "--recursive", "--lazy", *(str(path) for path in folder.glob("*/merged"))])
            shutil.rmtree(folder)


def in_venv(stages: list[Stage], folder: Path, repository: Path) -> None:
    """Run the pip steps of the CPU image in a fresh virtual environment, and rlpost in it.

    Raises:
        SystemExit: a step failed.
    """
    started = time.monotonic()
    source = folder / "src"
    _command([sys.executable, "-m", "venv", str(folder)])
    environment = {**os.environ, "PATH": f"{folder.resolve() / 'bin'}:{os.environ['PATH']}"}
    for name in ("build", "cpu-packages", "wheel"):
        stage = next(stage for stage in stages if stage.name == name)
        for instruction in stage.instructions:
            if instruction.keyword == "COPY":
                *paths, target = instruction.words
                for path in paths:
                    destination = source / (
                        Path(path).name if target in (".", "./") else target.removeprefix("/src/")
                    )
                    destination.parent.mkdir(parents=True, exist_ok=True)
                    copy = shutil.copytree if (repository / path).is_dir() else shutil.copy2
                    copy(
                        repository / path,
                        destination,
                        **({"symlinks": True} if copy is shutil.copytree else {}),
                    )
            elif instruction.keyword == "RUN" and "apt-get" not in instruction.value:
                _say(f"{name}: {instruction.value[:100]}")
                _command(["/bin/sh", "-c", instruction.value], environment, source)
    _command(
        ["pip", "install", "--no-deps", "--no-index", "--find-links", "wheels", "rlpost"], environment, source
    )
    for command in PROOFS:
        _say(" ".join(command))
        proof = [part.replace("/tmp/first-run", str(folder.resolve() / "first-run")) for part in command]
        _command(proof, environment, repository)
    _say(f"ok after {time.monotonic() - started:.0f} s; the environment has {_size(folder)}")


def _passed_on() -> tuple[dict[str, str], list[Path]]:
    """How pip reaches its index here: variables for the steps, and the files and folders that they name.

    Inside, those lie under `ASIDE`, where no package puts a file of its own.
    """
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = re.findall(r"^(?:global|install)\.([\w-]+)='(.*)'$", listed, re.MULTILINE)
    variables = {f"PIP_{key.upper().replace('-', '_')}": value for key, value in settings}
    variables |= {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    text = " ".join(variables.values())
    # An index in a folder names files beside it.
    named = [Path(path).parent for path in re.findall(r"file://(/[\w./+-]+)", text)]
    named += [Path(path) for path in re.findall(r"(?<![\w/.:])/[\w./+-]+", text)]
    existing = sorted({path for path in named if path.exists() and path.parts[:2] != ("/", "dev")})
    tops = [path for path in existing if not any(other in path.parents for other in existing)]
    any_top = re.compile(rf"({'|'.join(re.escape(str(path)) for path in tops) or '(?!)'})(?![\w.+-])")
    return {name: any_top.sub(rf"{ASIDE}\1", value) for name, value in variables.items()}, tops


def _command(
    command: Sequence[str], environment: Mapping[str, str] | None = None, place: Path | None = None
) -> None:
    done = subprocess.run(command, env=environment, cwd=place, check=False)
    if done.returncode:
        sys.exit(f"error: status {done.returncode} of: {' '.join(command)[:400]}")


def _size(path: Path) -> str:
    used = subprocess.run(["du", "-sxk", str(path)], capture_output=True, text=True, check=False).stdout
    return f"{int(used.split()[0]) * 1024 / 1e6:.0f} MB"


def _say(text: str) -> None:
    print(f"### {text}", flush=True)
