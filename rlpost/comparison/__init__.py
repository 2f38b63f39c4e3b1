"""Comparing algorithms: the same task and budget for every arm, several seeds, one report.

`plan` decides what is trained, `runner` trains it in subprocesses, the rest reads and shows the results.
"""

from rlpost.comparison.command import compare

__all__ = ["compare"]
