import json

import pytest

from rlpost.models.tokenizer import build_tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    """The byte tokenizer; tests that change it build their own."""
    return build_tiny_tokenizer()


@pytest.fixture
def write_rows(tmp_path):
    """Writes lines (objects become JSON, bytes and text stay) and returns the path as text."""

    def write(*lines, name="data.jsonl"):
        path = tmp_path / name
        path.write_bytes(b"".join(_encoded(line) + b"\n" for line in lines))
        return str(path)

    return write


def _encoded(line):
    if isinstance(line, bytes):
        return line
    return (line if isinstance(line, str) else json.dumps(line)).encode()
