"""cheap_findings: all that can be found out within a second or so, in the order in which one would fix it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rlpost.config.schema import RunConfig
from rlpost.errors import ConfigError
from rlpost.preflight.addresses import address_findings
from rlpost.preflight.finding import ERROR, UNTRIED, WARNING, Finding
from rlpost.preflight.hub import Hub, is_here, named_by
from rlpost.preflight.memory import memory_findings
from rlpost.preflight.model_sizes import model_findings
from rlpost.preflight.packages import package_findings
from rlpost.preflight.sizes import size_findings
from rlpost.preflight.storage import storage_findings
from rlpost.preflight.variables import tool_findings, variable_findings
from rlpost.sizing import describe, plan_memory
from rlpost.sizing.model_facts import ModelFacts, model_facts
from rlpost.sizing.target import Target, find_target


def cheap_findings(
    config: RunConfig,
    *,
    hub: Hub | bool = True,
    here: bool | None = None,
    output: Path | None = None,
    path: list[str] | None = None,
) -> Iterator[Finding]:
    """Each check as soon as it is done; no weights, data or reward functions are loaded.

    Args:
        hub: whether the Hugging Face hub may be asked; what is then not on this machine is "not tried".
        here: whether the run is started on this machine; None where only the recipe's `machines` tells. Of
            machines elsewhere only that is known which the recipe says, and nothing is said of this one.
        output: the run directory, where one is named.
        path: folders whose metadata tells which packages are installed; `sys.path` without it.
    """
    hub = hub if isinstance(hub, Hub) else Hub(hub)
    target = find_target(config, here=here)
    yield from package_findings(config, target, path)
    if target.here:
        yield from variable_findings(config, target)
        yield from tool_findings(config)
        yield from address_findings(config, target)
        yield from hub.findings(config)
    yield from size_findings(config, target)
    facts = known_facts(config, hub)
    if isinstance(facts, Finding):
        yield facts
        facts = None
    else:
        yield from model_findings(config, target, facts)
        yield from _memory(config, target)
    yield from storage_findings(config, target, facts, output)


def stop_at_errors(findings: Sequence[Finding]) -> list[str]:
    """The warnings among findings, a line each.

    Raises:
        ConfigError: some are errors; all of them are in its message.
    """
    errors = [finding for finding in findings if finding.level == ERROR]
    if len(errors) == 1:
        [only] = errors
        raise ConfigError(f"{only.name}: {only.found}", remedy=only.remedy)
    if errors:
        entries = [
            str(ConfigError(f"{n}. {error.name}: {error.found}", remedy=error.remedy))
            for n, error in enumerate(errors, 1)
        ]
        raise ConfigError("\n".join([f"{len(errors)} things stand in the way of this run", *entries]))
    return [f"{f.name}: {f.found}; {f.remedy}" for f in findings if f.level == WARNING]


def _memory(config: RunConfig, target: Target) -> Iterator[Finding]:
    try:
        yield from memory_findings(plan_memory(config, hub=False, target=target))
    except ConfigError as error:  # a critic's or teacher's model
        found = f"not planned: {error.details['found'] or error.what}"
        yield Finding("memory", UNTRIED, found, str(error.details["remedy"]))


def known_facts(config: RunConfig, hub: Hub) -> ModelFacts | Finding:
    """The policy's sizes, or why they are not known."""
    own = next((named for named in named_by(config) if named.where == "model.init"), None)
    at_hub = own is not None and not own.is_path and not is_here(own) and hub.lacks(own) is None
    try:
        return model_facts(config.model, hub=at_hub)
    except ConfigError as error:
        details, level = error.details, ERROR if own is not None and own.is_path else UNTRIED
        found = f"the model's sizes are not known: {details['found'] or error.what}"
        return Finding("model configuration", level, found, str(details["remedy"]))
    except Exception as error:  # the code of an architecture may raise anything on sizes that do not fit
        found = f"no model can be built from it: {type(error).__name__}: {error}"
        return Finding("model configuration", WARNING, found, "correct the model's config.json")


def memory_text(config: RunConfig) -> str:
    """The memory plan in words, or why there is none."""
    try:
        return describe(plan_memory(config, hub=False))
    except ConfigError as error:
        return f"memory\n  not known: {error.details['found'] or error.what}"
