"""What `rlpost check` prints: the sizes, one table of checks, the failures, and one line that sums up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rlpost.config import sizes
from rlpost.config.schema import RunConfig
from rlpost.doctor.recipe import Finding, examine_recipe

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 5
TAIL = 60
NOTE = 120
VERDICTS = {True: "ok", False: "FAILED", None: "not tried"}


def report_recipe(config: RunConfig, limit: int | None, console: Console) -> bool:
    """Examine the recipe and print what is found; True when nothing failed."""
    console.print(f"recipe `{config.name}`\n{sizes(config)}\n", markup=False, highlight=False, soft_wrap=True)
    with console.status("checking") as status:
        findings = []
        for finding in examine_recipe(config, limit):
            status.update(f"checking; done: {finding.name}")
            findings.append(finding)
    _print_table(findings, console)
    for finding in findings:
        if finding.trial is not None and finding.trial.failures:
            _print_failures(finding, console)
    failed = [finding.name for finding in findings if finding.passed is False]
    first = f", on the first {limit:,} rows of each data set" if limit else ""
    verdict = f"all {len(findings)} checks passed{first}"
    if failed:
        verdict = f"{len(failed)} of {len(findings)} checks failed{first}: {'; '.join(failed)}"
    console.print(verdict, markup=False, highlight=False, soft_wrap=True)
    return not failed


def _print_table(findings: Iterable[Finding], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    table = Table("check", "result", Column("found", overflow="fold"))
    for finding in findings:
        found = "\n".join([finding.found, *finding.notes])
        table.add_row(escape(finding.name), VERDICTS[finding.passed], escape(found))
    console.print(table)


def _print_failures(finding: Finding, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    assert finding.trial is not None
    failures = finding.trial.failures
    shown = f", the first {SHOWN} of {len(failures):,}" if len(failures) > SHOWN else ""
    # Rich would fold a title to the width of its table.
    console.print(f"failed: {finding.name}{shown}", style="bold", markup=False, soft_wrap=True)
    table = Table("row", "gold answer", "response", "score and note")
    for failure in failures[:SHOWN]:
        prompt = failure.prompt
        row = "" if prompt is None else prompt.place.rpartition(", ")[2] or prompt.id
        gold = "" if prompt is None else _tail(prompt.columns.get("answer", ""))
        response = _tail(failure.response or "")
        same = "the gold answer itself" if response and response == gold else response
        table.add_row(*map(escape, (row, gold, same, _first_line(failure.got))))
    console.print(table)


def _first_line(note: str) -> str:
    line = " ".join(note.partition("\n")[0].split())
    return line if len(line) <= NOTE else f"{line[:NOTE]}..."


def _tail(value: object) -> str:
    """The end of a text, where the answer is."""
    text = " ".join(str(value).split())
    return text if len(text) <= TAIL else f"...{text[-TAIL:]}"
