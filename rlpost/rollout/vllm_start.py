"""What a vLLM engine is started with: the model's shell, its parts' names, the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlpost.config.schema import CPU_KV_CACHE_GIB, ModelConfig, VLLMConfig
from rlpost.models import load_model, load_tokenizer
from rlpost.models.causal_lm import loading
from rlpost.rollout import vllm_names as names
from rlpost.rollout.torch_engine import eos_token_ids
from rlpost.weights.transfer import policy_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ModelShell:
    """What is known of a model without its weights.

    Attributes:
        path: what vLLM loads: a Hugging Face id or a directory.
        shapes: of every tensor of a `WeightBundle` for this model, by name.
        eos_ids: every id that ends a response.
        embeddings: rows of the input embeddings; ids that the model knows.
        vocabulary: ids that may be sampled; fewer where the model's vocabulary is padded.
        positions: the longest sequence the model reads; None without a limit.
    """

    path: str
    shapes: Mapping[str, tuple[int, ...]]
    tokenizer: PreTrainedTokenizerBase
    eos_ids: frozenset[int]
    embeddings: int
    vocabulary: int
    positions: int | None


def model_shell(config: ModelConfig, folder: Path) -> ModelShell:
    """Look at the model of `config.init`; a tiny one's configuration is written to `folder`.

    Raises:
        ConfigError: nothing loadable is there.
    """
    tokenizer = load_tokenizer(config)
    if config.init == "tiny":
        model = load_model(config)
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        path = str(folder)
    else:
        model, path = _without_weights(config), config.init
    text = model.config.get_text_config()
    embeddings = int(text.vocab_size)
    return ModelShell(
        path=path,
        shapes={name: tuple(tensor.shape) for name, tensor in policy_tensors(model).items()},
        tokenizer=tokenizer,
        eos_ids=eos_token_ids(model, tokenizer),
        embeddings=embeddings,
        vocabulary=min(embeddings, max(tokenizer.get_vocab().values()) + 1),
        positions=getattr(text, "max_position_embeddings", None),
    )


def _without_weights(config: ModelConfig) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    source = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    with loading(config):
        architecture = AutoConfig.from_pretrained(config.init, **source)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(architecture, trust_remote_code=config.trust_remote_code)
    # Few models lack the file; theirs was made from the model's configuration.
    with suppress(OSError):
        model.generation_config = GenerationConfig.from_pretrained(config.init, revision=config.revision)
    return model


def is_on_cpu() -> bool:
    """Whether vLLM samples on the CPU here."""
    return not torch.accelerator.is_available()


def runs_eagerly(options: VLLMConfig) -> bool:
    """Whether the model runs without compilation and graphs."""
    return is_on_cpu() if options.enforce_eager is None else options.enforce_eager


def engine_arguments(
    config: ModelConfig, shell: ModelShell, options: VLLMConfig, slots: int, threads: int | None
) -> dict[str, Any]:
    """The keyword arguments of vLLM's `EngineArgs`."""
    kv_cache_gib = options.kv_cache_gib or (CPU_KV_CACHE_GIB if is_on_cpu() else None)
    arguments: dict[str, Any] = {
        "model": shell.path,
        "revision": config.revision if shell.path == config.init else None,
        "trust_remote_code": config.trust_remote_code,
        "dtype": config.dtype,
        "tensor_parallel_size": options.tensor_parallel,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "kv_cache_memory_bytes": int(kv_cache_gib * 2**30) if kv_cache_gib else None,
        "max_num_seqs": slots,
        "enforce_eager": runs_eagerly(options),
        "enable_prefix_caching": True,
        # So that a probe need not wait for the end of all that runs.
        "scheduling_policy": "priority",
        "enable_sleep_mode": not is_on_cpu(),
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
        "skip_tokenizer_init": True,
        "disable_log_stats": True,
        # The policy's weights come from the learner: a first transfer that did not arrive shows at once.
        "load_format": "dummy",
        "weight_transfer_config": {"backend": names.BACKEND},
        "worker_extension_cls": f"{names.PROCESS_MODULE}.WorkerExtension",
    }
    if options.max_model_len is not None:
        arguments["max_model_len"] = options.max_model_len
    if is_on_cpu() and threads is not None and options.tensor_parallel == 1:
        # On a CPU vLLM would give the model a process of its own, to bind its threads there; it need not when
        # their number is in the environment, and the second process costs as much as all of the first.
        arguments["distributed_executor_backend"] = names.ONE_PROCESS
    if shell.vocabulary < shell.embeddings:
        arguments["logits_processors"] = [f"{names.PROCESS_MODULE}:KnownTokensOnly"]
        arguments["additional_config"] = {names.VOCABULARY_KEY: shell.vocabulary}
    return arguments


@contextmanager
def start_environment(options: VLLMConfig, threads: int | None) -> Iterator[None]:
    """The environment that vLLM reads while its processes start; what was there before comes back.

    vLLM listens on loopback, reports nothing to its makers, and logs errors only, unless
    VLLM_LOGGING_LEVEL says otherwise.
    """
    import torch._dynamo.config  # noqa: F401, so that this process keeps its own setting

    wanted = {
        names.OWNER_VARIABLE: str(os.getpid()),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_ENGINE_READY_TIMEOUT_S": str(int(options.start_deadline_s) + 1),
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        # vLLM's processes warn of their dependencies, and Python's of shared memory when they are killed.
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore"),
    }
    if runs_eagerly(options):
        # Else vLLM's sampler is compiled at the first token, which takes longer than most CPU tests.
        wanted["TORCH_COMPILE_DISABLE"] = "1"
    if threads is not None:
        # vLLM would bind to cores that learners and other workers share.
        wanted |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
