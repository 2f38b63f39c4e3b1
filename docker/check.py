"""Checks docker/Dockerfile, and shows that its steps install a working rlpost.

python docker/check.py                    the file alone: pins, user, health check, labels, leftovers
python docker/check.py --install ROOT     also runs its steps in a clean Debian root (debootstrap), as root
python docker/check.py --venv FOLDER      also runs its pip steps in a bare virtual environment
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from containerfile import DockerfileError, Instruction, Stage, arguments, chain, read, resolved

HERE = Path(__file__).parent
FINAL = "rlpost"
KINDS = ("cpu", "gpu")
LABELS = {
    f"org.opencontainers.image.{name}" for name in ("title", "description", "version", "revision", "licenses")
}
REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^;\s]+)")
PINNED = re.compile(r"\b([A-Za-z][A-Za-z0-9._-]*)==([0-9][^\s'\"\\]*)")


def problems(dockerfile: Path, repository: Path) -> list[str]:
    """Everything that is wrong with a Dockerfile, a line each."""
    try:
        stages = read(dockerfile)
    except DockerfileError as error:
        return [f"{dockerfile}: {error}"]
    found = [f"{dockerfile}:{line}: {text}" for line, text in _of_file(stages, repository)]
    found += [f"{dockerfile}: {text}" for text in _of_image(stages)]
    return found + _of_versions(repository) + _of_ignored(repository)


def _of_file(stages: list[Stage], repository: Path) -> Iterator[tuple[int, str]]:
    """Line by line."""
    values, names = arguments(stages), {stage.name for stage in stages}
    locked = _pins(repository / "requirements" / "core.lock") | _pins(
        repository / "requirements" / "cluster.lock"
    )
    for stage in stages[1:]:
        for kind in KINDS:
            base = resolved(stage.base, values | {"KIND": kind})
            if base not in names and not _is_pinned(base):
                yield stage.line, f"the base {base} is not pinned: give it a tag (not latest), or a digest"
        for instruction in stage.instructions:
            yield from ((instruction.line, text) for text in _of_instruction(instruction, names, repository))
            for name, version in PINNED.findall(instruction.value if instruction.keyword == "RUN" else ""):
                if locked.get(_normal(name)) != version:
                    found = locked.get(_normal(name), "another version or none")
                    yield instruction.line, f"{name}=={version}, but the locks have {found}"


def _is_pinned(image: str) -> bool:
    if "@sha256:" in image:
        return True
    _, colon, tag = image.rpartition("/")[2].partition(":")
    return bool(colon) and tag not in ("", "latest") and any(sign.isdigit() for sign in tag)


def _of_instruction(instruction: Instruction, stages: set[str], repository: Path) -> Iterator[str]:
    value = instruction.value
    if instruction.keyword == "ADD":
        yield "ADD unpacks and downloads by guessing: use COPY"
    elif instruction.keyword == "COPY":
        source = instruction.flags.get("from")
        if source is not None and source not in stages:
            yield f"COPY from {source}, which is no stage"
        for path in instruction.words[:-1] if source is None else []:
            if not (repository / path).exists():
                yield f"COPY of {path}, which does not exist"
    elif instruction.keyword in ("ENV", "ARG"):
        for name in instruction.pairs:
            if re.search(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|API_?KEY", name):
                yield f"{name} would stay in the image's history: secrets are given when it runs"
    elif instruction.keyword == "RUN":
        if "apt-get install" in value:
            if "--no-install-recommends" not in value:
                yield "apt-get install without --no-install-recommends"
            if "rm -rf /var/lib/apt/lists/*" not in value:
                yield "the lists of apt are left in the layer: rm -rf /var/lib/apt/lists/*"
            if "apt-get update" not in value:
                yield "apt-get install without apt-get update in the same layer"
        if re.search(r"\bsudo\b|chmod\s+(-R\s+)?0?777", value):
            yield "sudo or chmod 777"
        if re.search(r"(curl|wget)\b.*\|\s*(ba)?sh", value):
            yield "a script from the network is run unread"


def _of_image(stages: list[Stage]) -> Iterator[str]:
    """The final stage, with all that it stands on."""
    for kind in KINDS:
        own = [
            i
            for stage in chain(stages, FINAL, arguments(stages) | {"KIND": kind})
            for i in stage.instructions
        ]
        last = {instruction.keyword: instruction for instruction in own}
        labels = {name for i in own if i.keyword == "LABEL" for name in i.pairs}
        user = last["USER"].value if "USER" in last else "root"
        if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", user):
            yield f"the {kind} image runs as {user}: give a number other than 0, which Kubernetes can check"
        if "HEALTHCHECK" not in last or last["HEALTHCHECK"].value.upper() == "NONE":
            yield f"the {kind} image has no HEALTHCHECK"
        if missing := sorted(LABELS - labels):
            yield f"the {kind} image lacks labels: {', '.join(missing)}"
        if not any("PIP_NO_CACHE_DIR" in i.pairs for i in own if i.keyword == "ENV"):
            yield f"pip's cache stays in layers of the {kind} image: ENV PIP_NO_CACHE_DIR=1"


def _of_versions(repository: Path) -> list[str]:
    """What pyproject.toml pins for the GPU image is what the locks have for the CPU image."""
    import tomllib

    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    core = _pins(repository / "requirements" / "core.lock")
    cluster = _pins(repository / "requirements" / "cluster.lock")
    found = [
        f"requirements: core.lock has {name}=={version}, cluster.lock has {cluster.get(name)}"
        for name, version in core.items()
        if cluster.get(name) != version
    ]
    for extra in ("ray", "vllm", "deepspeed"):
        for line in project["optional-dependencies"][extra]:
            match = REQUIREMENT.match(line)
            if match is None:
                found.append(f"pyproject.toml: extra {extra} does not pin {line}")
            elif match[2] != (
                locked := cluster.get(_normal(match[1])) or cluster.get(f"{_normal(match[1])}-cpu")
            ):
                found.append(f"pyproject.toml: extra {extra} has {line}, cluster.lock has {locked}")
    return found


def _of_ignored(repository: Path) -> list[str]:
    """The context takes in what is named, and nothing else."""
    lines = [
        line for line in (repository / ".dockerignore").read_text().splitlines() if line and line[0] != "#"
    ]
    return (
        []
        if lines[:1] == ["*"]
        else [".dockerignore: its first line must be *, so that only named files go along"]
    )


def _pins(lock: Path) -> dict[str, str]:
    matches = (REQUIREMENT.match(line) for line in lock.read_text().splitlines())
    return {_normal(match[1]): match[2] for match in matches if match}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """The command line; the number of problems is not zero where it returns 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, default=HERE / "Dockerfile")
    parser.add_argument("--install", type=Path, metavar="ROOT", help="a clean root; it is left as it is")
    parser.add_argument("--venv", type=Path, metavar="FOLDER", help="is made")
    parser.add_argument("--keep", action="store_true", help="leave the layers of --install beside ROOT")
    chosen = parser.parse_args()
    repository = HERE.parent
    found = problems(chosen.file, repository)
    for problem in found:
        print(problem, file=sys.stderr)
    if found:
        return 1
    print(f"{chosen.file}: ok")
    if chosen.install is not None or chosen.venv is not None:
        import install

        stages = read(chosen.file)
        if chosen.install is not None:
            install.in_root(stages, chosen.install, repository, chosen.keep)
        if chosen.venv is not None:
            install.in_venv(stages, chosen.venv, repository)
    return 0


if __name__ == "__main__":
    sys.exit(main())
