"""The command line: parse, call, print. Whatever is heavy is imported by the command that needs it."""

from rlpost.cli import training, checking, launching, runs, pivots, guidance, evaluation, scoring  # isort: skip  # in the order of `rlpost --help`
from rlpost.cli.app import app, interruptible, main

__all__ = [
    "app",
    "checking",
    "evaluation",
    "guidance",
    "interruptible",
    "launching",
    "main",
    "pivots",
    "runs",
    "scoring",
    "training",
]
