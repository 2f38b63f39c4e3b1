"""Every command that the documentation shows is understood; those of rlpost are run, made short."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from scratch_project import scratch_project
from short_commands import ELSEWHERE, elsewhere, run_short
from shown_commands import pages, shown

from rlpost.cli import app

ROOT = Path(__file__).parents[2]
SHOWN = [command for page in pages(ROOT) for command in shown(ROOT, page)]
PAGES = list(dict.fromkeys(command.page for command in SHOWN))


def test_commands_are_found_on_the_pages():
    assert len(SHOWN) > 100
    assert "README.md" in PAGES


def test_shown_commands_of_rlpost_name_commands_and_options_that_exist():
    wrong = []
    for shown_command in SHOWN:
        if shown_command.program == "rlpost":
            command, words = typer.main.get_command(app), list(shown_command.words[1:])
            try:
                while words and hasattr(command, "commands"):
                    command = command.commands[words.pop(0)]
                command.make_context("rlpost", words)
            except Exception as error:
                wrong.append(f"{shown_command}: {error!r}")
    assert wrong == []


def test_commands_of_other_programs_are_run_where_it_is_said():
    unknown = [str(c) for c in SHOWN if c.program != "rlpost" and not elsewhere(c)]
    assert unknown == [], f"say what runs them, beside {list(ELSEWHERE)}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    scratch_project(tmp_path, ROOT, ROOT / page)
    monkeypatch.chdir(tmp_path)
    for command in SHOWN:
        first = next(c for c in SHOWN if c.words == command.words)
        if command.page == page and command is first and is_ours(command):
            run_short(command, tmp_path)


def is_ours(command):
    return command.program == "rlpost" or command.words[:2] == ("python", "-m")
