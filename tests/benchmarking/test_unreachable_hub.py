"""Without the Hugging Face hub an evaluation says so at once, and looks for nothing there any more."""

import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from rlpost.benchmarking import EvalOptions
from rlpost.benchmarking.hub import needs_hub, unreachable_hub
from rlpost.evaluation import BENCHMARKS


@pytest.fixture
def hub(monkeypatch):
    """An address at which nobody answers, and a process that may look there."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")


def test_an_unreachable_hub_is_named_with_the_reason_and_left_alone_from_then_on(hub):
    assert "127.0.0.1:1" in unreachable_hub()
    assert os.environ["HF_HUB_OFFLINE"] == "1" and constants.HF_HUB_OFFLINE
    assert unreachable_hub() is None


def test_the_hub_is_needed_for_ids_of_models_and_for_files_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sums = [BENCHMARKS["gsm8k"]]
    here, fetched = EvalOptions(data_dir="anywhere"), EvalOptions()
    assert not needs_hub(["tiny", str(tmp_path)], sums, here)
    assert needs_hub(["owner/name"], sums, here)
    assert not needs_hub(["name"], sums, EvalOptions(data_dir="x", endpoint="http://x", chat=True))
    assert needs_hub(["tiny"], sums, fetched)
    Path("data/gsm8k").mkdir(parents=True)
    Path("data/gsm8k/test.jsonl").touch()
    assert not needs_hub(["tiny"], sums, fetched)
