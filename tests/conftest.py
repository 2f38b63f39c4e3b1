"""What every test may use: one thread, no model hub, a tiny model, and shared data where there is any."""

from __future__ import annotations

import gc
import multiprocessing
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

# Imports make objects that stay: to look for garbage among them takes a fifth of their time, and more later.
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


# torch and the package are imported where they are used: the process that hands out the tests needs neither.
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with gsm8k/, math500/, aime24/ and amc23/, beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the benchmark files are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def processes():
    """A context of processes that share nothing with this one: another that imported libraries is forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "rlpost.rollout.vllm_calls", "rlpost.weights"])
    return context


@pytest.fixture(scope="session")
def tiny_config():
    from rlpost.config.schema import ModelConfig

    return ModelConfig(init="tiny")


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_config):
    from rlpost.models import load_tokenizer

    return load_tokenizer(tiny_config)


@pytest.fixture(scope="session")
def tiny_model(tiny_config):
    """Shared by the whole session: a test that trains it must copy it first."""
    from rlpost.models import load_model

    return load_model(tiny_config, seed=0)
