"""Untrusted Python programs, run where they can do no harm: jails, limits, and what became of a program."""

from rlpost.scoring.sandbox.execution import Execution, Limits, Outcome
from rlpost.scoring.sandbox.sandbox import Sandbox, shared_sandbox

__all__ = ["Execution", "Limits", "Outcome", "Sandbox", "shared_sandbox"]
