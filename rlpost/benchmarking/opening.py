"""A model made ready to be asked, with what its results must say about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from rlpost.benchmarking.endpoint import ChatSource, endpoint_engine, server_record, text_tokenizer
from rlpost.benchmarking.options import EvalOptions
from rlpost.benchmarking.workers import VERSION, model_workers
from rlpost.config.schema import ModelConfig
from rlpost.errors import UserError
from rlpost.evaluation import SamplerSource, SampleSource
from rlpost.evaluation.benchmark import Template
from rlpost.models import load_tokenizer, max_positions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlpost.rollout.endpoint_engine import EndpointEngine


@dataclass(frozen=True)
class OpenModel:
    """What answers, and what a manifest says about it.

    Attributes:
        engine: in words, such as "vllm on NVIDIA H200".
        version: the policy version that samples carry; None where they carry none.
        template: whether the chat template is applied to prompts, instead of what options and benchmarks say.
        checksum: of the weights; None where nobody sees them.
        max_prompt_tokens: of prompts that leave room for a whole response; None without a limit.
        server: what is known of a server that answers.
    """

    config: ModelConfig
    tokenizer: PreTrainedTokenizerBase
    source: SampleSource
    engine: str
    version: int | None
    checksum: str | None
    max_prompt_tokens: int | None
    template: Template | None = None
    server: Mapping[str, Any] | None = None


@contextmanager
def open_model(
    model: str, options: EvalOptions, logs: Path, report: Callable[[str], None]
) -> Iterator[OpenModel]:
    """Start what samples from the model; it ends with the context.

    Raises:
        UserError: the model cannot be loaded, its context has no room for a prompt, or no server answers.
        RlpostError: workers did not start, or did not load the same weights.
    """
    if options.endpoint is not None:
        with endpoint_engine(model, options) as engine:
            yield _served(model, engine, options)
        return
    config = ModelConfig(init=model, dtype=_dtype(options))
    tokenizer = load_tokenizer(config)
    budget = _prompt_budget(max_positions(config), options.max_response_tokens)
    with model_workers(config, options, logs, report) as workers:
        checksum = workers.load()
        engine = _engine(options, workers.device)
        yield OpenModel(config, tokenizer, workers, engine, VERSION, checksum, budget)


def _served(model: str, engine: EndpointEngine, options: EvalOptions) -> OpenModel:
    described = ModelConfig(init=engine.model)
    record = server_record(engine, options)
    words = f"{engine.server or 'a server'} at {record['url']}"
    if options.chat:
        source: SampleSource = ChatSource(engine, options.concurrency)
        return OpenModel(described, text_tokenizer(), source, words, None, None, None, "none", record)
    tokenizer = load_tokenizer(ModelConfig(init=model))
    budget = _prompt_budget(engine.max_positions, options.max_response_tokens)
    source = SamplerSource(engine, options.concurrency)
    return OpenModel(described, tokenizer, source, words, None, None, budget, None, record)


def _dtype(options: EvalOptions) -> Literal["float32", "bfloat16"]:
    if options.dtype != "auto":
        return options.dtype
    return "bfloat16" if torch.cuda.is_available() else "float32"


def _engine(options: EvalOptions, device: str) -> str:
    if device == "cuda" and torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    divided = options.devices_per_worker
    return f"{options.engine} on {device}" + (f", divided over {divided}" if divided > 1 else "")


def _prompt_budget(positions: int | None, max_response_tokens: int) -> int | None:
    """Tokens that the model's context leaves for a prompt."""
    if positions is None:
        return None
    if max_response_tokens >= positions:
        raise UserError(
            "the model's context has no room for a prompt",
            where="--max-response-tokens",
            found=max_response_tokens,
            needed=f"below {positions}, the model's number of positions",
        )
    return positions - max_response_tokens
