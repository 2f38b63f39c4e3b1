"""What is installed and what this machine offers, against what rlpost is tested with and needs.

Packages are judged by their metadata alone; only torch is imported, to ask for accelerators.
"""

from rlpost.doctor.check import Check
from rlpost.doctor.examine import as_json, as_text, examine, fails

__all__ = ["Check", "as_json", "as_text", "examine", "fails"]
