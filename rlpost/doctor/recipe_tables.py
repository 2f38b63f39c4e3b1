"""What `rlpost check` prints: a table of findings, sizes and memory, failures, and one line that sums up."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlpost.config import sizes
from rlpost.config.schema import RunConfig
from rlpost.doctor.recipe import Tried, examine_recipe
from rlpost.preflight import ERROR, OK, UNTRIED, WARNING, Finding, memory_text

if TYPE_CHECKING:
    from rich.console import Console

    from rlpost.scoring.canary import Failure

SHOWN = 5
TAIL = 60
NOTE = 120
STYLES = {OK: "green", WARNING: "yellow", ERROR: "bold red", UNTRIED: "dim"}


def report_recipe(
    config: RunConfig,
    limit: int | None,
    console: Console,
    *,
    hub: bool = True,
    fast: bool = False,
    as_json: bool = False,
) -> bool:
    """Examine the recipe and print what is found; True when nothing is an error.

    Args:
        limit, hub, fast: as of `examine_recipe`.
        as_json: one JSON object in the place of the tables.
    """
    if as_json:
        findings = list(examine_recipe(config, limit, hub=hub, fast=fast))
        console.print_json(json.dumps(_object(config, findings)))
        return not _names(findings, ERROR)
    findings = []
    with console.status(f"checking {config.name}") as status:
        for finding in examine_recipe(config, limit, hub=hub, fast=fast):
            status.update(f"checking {config.name}; done: {finding.name}")
            findings.append(finding)
    _print_table(findings, console)
    for text in (f"sizes\n{sizes(config)}", memory_text(config)):
        console.print(f"{text}\n", markup=False, highlight=False, soft_wrap=True)
    for finding in findings:
        if isinstance(finding, Tried) and finding.trial is not None and finding.trial.failures:
            _print_failures(finding, console)
    first = f", on the first {limit:,} rows of each data set" if limit and not fast else ""
    console.print(_summary(config, findings, first), markup=False, highlight=False, soft_wrap=True)
    return not _names(findings, ERROR)


def _names(findings: Sequence[Finding], level: str) -> list[str]:
    return [finding.name for finding in findings if finding.level == level]


def _summary(config: RunConfig, findings: Sequence[Finding], first: str) -> str:
    counts = Counter(finding.level for finding in findings)
    parts = [f"{counts[OK]} of {len(findings)} checks ok"]
    for level, word in ((ERROR, "error"), (WARNING, "warning"), (UNTRIED, UNTRIED)):
        if counts[level]:
            many = "s" if counts[level] > 1 and level != UNTRIED else ""
            parts.append(f"{counts[level]} {word}{many} ({'; '.join(_names(findings, level))})")
    return f"{config.name}{first}: {', '.join(parts)}"


def _object(config: RunConfig, findings: Sequence[Finding]) -> dict[str, Any]:
    """What `--json` prints; `memory` is the plan in words."""
    return {
        "recipe": config.name,
        "ok": not _names(findings, ERROR),
        "findings": [_entry(finding) for finding in findings],
        "memory": memory_text(config),
    }


def _entry(finding: Finding) -> dict[str, Any]:
    entry: dict[str, Any] = {
        field.name: getattr(finding, field.name) for field in dataclasses.fields(Finding)
    }
    if isinstance(finding, Tried) and finding.trial is not None:
        entry["failures"] = [
            dict(zip(("row", "answer", "response", "got"), _failure(failure), strict=True))
            for failure in finding.trial.failures
        ]
    return entry


def _print_table(findings: Sequence[Finding], console: Console) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Column, Table

    remedies = any(finding.remedy for finding in findings)
    columns = [
        Column("check", ratio=4, overflow="fold"),
        Column("result", min_width=9, no_wrap=True),
        Column("found", ratio=8, overflow="fold"),
        Column("remedy", ratio=6, overflow="fold"),
    ]
    table = Table(
        *columns[: 4 if remedies else 3],
        box=box.SIMPLE_HEAD,
        expand=True,
        pad_edge=False,
        padding=(0, 1),
    )
    for finding in findings:
        found = "\n".join([finding.found, *finding.notes])
        level = f"[{STYLES[finding.level]}]{finding.level}[/]"
        cells = escape(finding.name), level, escape(found), escape(finding.remedy)
        table.add_row(*cells[: len(table.columns)])
    console.print(table)


def _print_failures(finding: Tried, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    assert finding.trial is not None
    failures = finding.trial.failures
    shown = f", the first {SHOWN} of {len(failures):,}" if len(failures) > SHOWN else ""
    # Rich would fold a title to the width of its table.
    console.print(f"failed: {finding.name}{shown}", style="bold", markup=False, soft_wrap=True)
    table = Table("row", "gold answer", "response", "score and note")
    for failure in failures[:SHOWN]:
        table.add_row(*map(escape, _failure(failure)))
    console.print(table)


def _failure(failure: Failure) -> tuple[str, str, str, str]:
    """Row, gold answer, response, score and note."""
    prompt = failure.prompt
    row = "" if prompt is None else prompt.place.rpartition(", ")[2] or prompt.id
    gold = "" if prompt is None else _tail(prompt.columns.get("answer", ""))
    response = _tail(failure.response or "")
    same = "the gold answer itself" if response and response == gold else response
    return row, gold, same, _first_line(failure.got)


def _first_line(note: str) -> str:
    line = " ".join(note.partition("\n")[0].split())
    return line if len(line) <= NOTE else f"{line[:NOTE]}..."


def _tail(value: object) -> str:
    """The end of a text, where the answer is."""
    text = " ".join(str(value).split())
    return text if len(text) <= TAIL else f"...{text[-TAIL:]}"
