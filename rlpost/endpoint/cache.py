"""Replies kept on disk, for requests that are sent again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Messages = Sequence[Mapping[str, str]]


def default_folder(name: str) -> Path:
    """`name` in rlpost's part of the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlpost" / name


class ReplyCache:
    """A folder with one file per reply, named after all that decides it but the server's address.

    Any number of processes may share it: a file appears whole, and two that write it write the same request.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, model: str, messages: Messages, sampling: Mapping[str, Any]) -> str | None:
        """The reply to this request; None where there is none, or the file is damaged."""
        try:
            reply = json.loads(self._file(model, messages, sampling).read_text(encoding="utf-8"))["reply"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return reply if isinstance(reply, str) else None

    def put(self, model: str, messages: Messages, sampling: Mapping[str, Any], reply: str) -> None:
        """Keep a reply.

        Raises:
            OSError: the folder cannot be written.
        """
        path = self._file(model, messages, sampling)
        record = {
            "model": model,
            "messages": [*map(dict, messages)],
            "sampling": dict(sampling),
            "reply": reply,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, suffix=".partial", delete=False
        ) as file:
            json.dump(record, file)
        Path(file.name).replace(path)

    def _file(self, model: str, messages: Messages, sampling: Mapping[str, Any]) -> Path:
        content = json.dumps([model, [*map(dict, messages)], dict(sampling)], sort_keys=True)
        name = hashlib.sha256(content.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.json"
