"""docker/Dockerfile passes its own check, and what the check is for fails in it."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker" / "Dockerfile"


@pytest.fixture(scope="module")
def check() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FILE.parent))
    try:
        spec = importlib.util.spec_from_file_location("docker_check", FILE.parent / "check.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(FILE.parent))
        sys.modules.pop("containerfile", None)


def test_the_dockerfile_passes_its_check(check: ModuleType) -> None:
    assert check.problems(FILE, ROOT) == []


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ("BASE=debian:latest", "BASE=debian:12.12-slim", "debian:latest is not pinned"),
        ("BASE=debian", "BASE=debian:12.12-slim", "debian is not pinned"),
        ("USER root", "USER 1000:1000", "runs as root"),
        ("", "USER 1000:1000", "runs as root"),
        ("HEALTHCHECK NONE", r"HEALTHCHECK .*", "no HEALTHCHECK"),
        ("org.example.version=", r"org.opencontainers.image.version=", "lacks labels: org.opencontainers"),
        ("COPY requirement /src", "COPY requirements /src", "COPY of requirement, which does not exist"),
        ("COPY --from=wheels ", "COPY --from=wheel ", "COPY from wheels, which is no stage"),
        ("ADD https://example.org/rewards /src", "COPY rewards rewards", "use COPY"),
        ("install --yes bubble", r"install --yes --no-install-\S+ \\\n +bubble", "without --no-install"),
        ("&& true", r"&& rm -rf /var/lib/apt/lists/\*", "lists of apt are left"),
        ("pip install torch==2.12.1", r"pip install -r \S+core.lock", "but the locks have 2.13.0"),
        ("ENV HF_TOKEN=x", "WORKDIR /src", "HF_TOKEN would stay in the image's history"),
        ("RUN wget -qO- https://example.org/x | sh", "WORKDIR /src", "run unread"),
        ("PIP_CACHE_DIR=/x", "PIP_NO_CACHE_DIR=1", "pip's cache stays"),
        ("CPOY", "COPY", "'CPOY' is no instruction"),
    ],
)  # fmt: skip
def test_the_check_finds(check: ModuleType, tmp_path: Path, wrong: str, right: str, said: str) -> None:
    text, changed = re.subn(right, lambda match: wrong, FILE.read_text(), count=1)
    assert changed == 1, right
    broken = tmp_path / "Dockerfile"
    broken.write_text(text)
    found = check.problems(broken, ROOT)
    assert any(said in problem for problem in found), found
