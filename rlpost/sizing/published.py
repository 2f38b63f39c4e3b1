"""Published configurations: what the config.json of well-known models says, for where no hub can be asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TABLE = json.loads(Path(__file__).with_name("published_models.json").read_text())

PUBLISHED: Mapping[str, int] = {name: entry["parameters"] for name, entry in _TABLE.items()}
"""Hugging Face ids, and how many parameters each model has, tied ones counted once."""


def published(name: str) -> dict[str, Any] | None:
    """The keys of a model's published config.json on which its sizes depend, or None where it is not known.

    Args:
        name: a Hugging Face id.
    """
    entry = _TABLE.get(name)
    return None if entry is None else dict(entry["config"])
