"""Models and data sets that a recipe names: here already, or to be had from the Hugging Face hub."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

from rlpost.config.held_out import held_out_sets
from rlpost.config.schema import RunConfig
from rlpost.preflight.finding import ERROR, OK, UNTRIED, WARNING, Finding
from rlpost.preflight.reach import why_not

Kind = Literal["model", "dataset"]
ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
ENDPOINT = "https://huggingface.co"
SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
DOWNLOAD = "download it where the hub can be reached ({command}), or name a local {local}"


@dataclass(frozen=True)
class Named:
    """A model or data set by the key that names it; `name` is an id of the hub or a path."""

    kind: Kind
    name: str
    where: str
    revision: str | None = None

    @property
    def is_path(self) -> bool:
        """Whether a path is meant, be it there or not."""
        return Path(self.name).expanduser().exists() or ID.fullmatch(self.name) is None


def named_by(config: RunConfig) -> list[Named]:
    """All that a recipe names but the tiny model, each once."""
    found = [Named("model", config.model.init, "model.init", config.model.revision)]
    for stage in config.stages:
        if stage.teacher is not None:
            found.append(Named("model", stage.teacher.init, "teacher.init", stage.teacher.revision))
        if stage.critic is not None and stage.critic.init is not None:
            found.append(Named("model", stage.critic.init, "critic.init"))
        if stage.data.dataset is not None:
            found.append(Named("dataset", stage.data.dataset, "data.dataset", stage.data.revision))
    for data in held_out_sets(config).values():
        if data.dataset is not None:
            found.append(Named("dataset", data.dataset, "evaluation.data.dataset", data.revision))
    distinct = {(named.kind, named.name, named.revision): named for named in reversed(found)}
    return [named for named in reversed(distinct.values()) if named.name != "tiny"]


class Hub:
    """What is known of the hub from here; it is asked at most once, and only when something is missing.

    Args:
        ask: whether it may be asked at all.
    """

    def __init__(self, ask: bool = True) -> None:
        self.ask = ask

    @cached_property
    def why_not(self) -> str | None:
        """None when files can be had from it; otherwise why not."""
        if not self.ask:
            return "the hub is not asked"
        switch = next((name for name in SWITCHES if _is_on(os.environ.get(name))), None)
        if switch is not None:
            return f"{switch} forbids to ask the hub"
        url = urlsplit(os.environ.get("HF_ENDPOINT") or ENDPOINT)
        proxy = getproxies().get(url.scheme)
        asked = urlsplit(proxy) if proxy else url
        reason = why_not(asked.hostname or "", asked.port or (443 if asked.scheme == "https" else 80))
        return None if reason is None else f"{asked.hostname} cannot be reached: {reason}"

    def lacks(self, named: Named) -> str | None:
        """Why a model or data set cannot be had; None where it can."""
        if named.is_path:
            return _why_unusable(named)
        if is_here(named) or self.why_not is None:
            return None
        return f"{named.name} is not on this machine, and {self.why_not}"

    def findings(self, config: RunConfig) -> Iterator[Finding]:
        """A line for each model and data set that a recipe names."""
        for named in named_by(config):
            name, reason = f"{named.kind} {named.name}", self.lacks(named)
            if reason is not None:
                known = named.is_path or self.ask
                yield Finding(name, ERROR if known else UNTRIED, reason, _remedy(named))
            elif named.is_path:
                yield Finding(name, OK, f"a local {'directory' if named.kind == 'model' else 'data set'}")
            else:
                yield Finding(name, OK, "in the cache of this machine" if is_here(named) else "from the hub")
        yield from self._slow(config)

    def _slow(self, config: RunConfig) -> Iterator[Finding]:
        """Libraries ask the hub about cached files too, and try again for minutes where it is not there."""
        cached = [named for named in named_by(config) if not named.is_path and is_here(named)]
        if cached and self.ask and self.why_not is not None and "forbids" not in self.why_not:
            yield Finding(
                "hub", WARNING, f"{self.why_not}; every start waits for it", "export HF_HUB_OFFLINE=1"
            )


def is_here(named: Named) -> bool:
    """Whether the hub's cache on this machine has it."""
    from huggingface_hub import constants, try_to_load_from_cache

    if named.kind == "model":
        found = try_to_load_from_cache(named.name, "config.json", revision=named.revision)
        return isinstance(found, str)
    folder = named.name.replace("/", "--")
    hub = Path(constants.HF_HUB_CACHE) / f"datasets--{folder}" / "snapshots"
    home = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    places = (hub, home / named.name.replace("/", "___"))
    return any(place.is_dir() and any(place.iterdir()) for place in places)


@contextmanager
def without_network() -> Iterator[None]:
    """Inside, libraries take what this machine has, and do not try for long to reach the hub."""
    from huggingface_hub import constants

    modules = [constants, *filter(None, [sys.modules.get("datasets.config")])]
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value
        if len(modules) == 1 and (late := sys.modules.get("datasets.config")):
            late.HF_HUB_OFFLINE = before[0]  # it took the value when it was imported meanwhile


def _why_unusable(named: Named) -> str | None:
    path = Path(named.name).expanduser()
    if not path.exists():
        return f"there is nothing at {path.absolute()}"
    if named.kind == "dataset":
        return None
    if not path.is_dir():
        return f"{path} is a file"
    if not (path / "config.json").is_file():
        return f"{path} has no config.json"
    if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        return f"{path} has no weights: neither *.safetensors nor *.bin"
    return None


def _remedy(named: Named) -> str:
    if named.is_path:
        needed = "a directory with config.json and weights" if named.kind == "model" else "a data set"
        return f"let {named.where} name {needed}, or an id of the Hugging Face hub"
    kind = " --repo-type dataset" if named.kind == "dataset" else ""
    local = "directory in model.init" if named.kind == "model" else "file in data.path"
    return DOWNLOAD.format(command=f"hf download {named.name}{kind}", local=local)


def _is_on(value: str | None) -> bool:
    return (value or "").upper() in ("1", "ON", "YES", "TRUE")
