"""What `rlpost eval` may be told, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rlpost.config.schema import ClusterConfig, RolloutConfig, ScoringConfig, VLLMConfig
from rlpost.errors import UserError
from rlpost.evaluation import EvaluationSettings
from rlpost.rollout.engine import SamplingSettings

SLOTS = {"torch": 64, "vllm": 256}
"""Responses that one worker decodes at the same time, where nothing else is said."""

DTYPES = ("auto", "float32", "bfloat16")
TEMPLATES = ("auto", "chat", "none")


@dataclass(frozen=True)
class EvalOptions:
    """The options of `rlpost eval`, named as on the command line.

    Attributes:
        data_dir: the folder that holds the benchmarks' files. None: "data", and what is missing there is
            fetched from the Hugging Face hub.
        data: a JSONL or parquet file of one's own; needs `reward`.
        prompt_column: of `data`; "prompt" when None.
        answer_column: of `data`; "answer" when None.
        id_column: of `data`: a stable id of the problem; a hash of its content when None.
        reward: the verifier of `data`.
        template: how prompts are put to the model; see `DataConfig.template`.
        samples: responses per problem.
        temperature: None means greedy for one sample and 1.0 for several.
        top_k: tokens kept when sampling; 0 keeps all.
        stop: a response ends when its text holds one of these.
        limit: only the first problems of each file.
        output: where results go; "runs/eval-MODEL" when None. What an interrupted call left there is
            continued.
        against: results of an earlier evaluation, to be compared with problem by problem.
        engine: what decodes.
        workers: rollout workers; more than one run as Ray actors, as does one with `ray_address`.
        devices_per_worker: accelerators that one vLLM engine is split over.
        dtype: of the weights; "auto" is bfloat16 with an accelerator and float32 without.
        slots: responses that one worker decodes at the same time; None: 64 for torch, 256 for vLLM.
        ray_address: an existing Ray cluster; None starts one on this machine.
        endpoint: the URL of an OpenAI-compatible server that answers instead of an engine.
        endpoint_model: the served model's name; None takes MODEL.
        api_key_variable: the environment variable that holds the server's key.
        concurrency: requests that the server works on at the same time.
        chat: send messages, not prompts: the server applies its own chat template.
        scoring: the processes that run verifiers.
        cluster: deadlines and restarts of the workers; `mode` and `threads` follow from `workers`.
    """

    data_dir: Path | str | None = None
    data: Path | str | None = None
    prompt_column: str | None = None
    answer_column: str | None = None
    id_column: str | None = None
    reward: str | None = None
    template: Literal["auto", "chat", "none"] = "auto"
    samples: int = 1
    temperature: float | None = None
    top_p: float = 1.0
    top_k: int = 0
    stop: Sequence[str] = ()
    max_response_tokens: int = 1024
    limit: int | None = None
    output: Path | str | None = None
    against: Path | str | None = None
    seed: int = 0
    engine: Literal["torch", "vllm"] = "torch"
    workers: int = 1
    devices_per_worker: int = 1
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    slots: int | None = None
    ray_address: str | None = None
    endpoint: str | None = None
    endpoint_model: str | None = None
    api_key_variable: str | None = None
    concurrency: int = 32
    chat: bool = False
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def check(self) -> None:
        """Raises UserError for an option out of range, or two that contradict each other."""
        for flag, value, fine, needed in (
            ("--samples", self.samples, self.samples >= 1, "at least 1"),
            ("--temperature", self.temperature, (self.temperature or 0) >= 0, "0 (greedy) or more"),
            ("--top-p", self.top_p, 0 < self.top_p <= 1, "above 0, at most 1"),
            ("--top-k", self.top_k, self.top_k >= 0, "0 (all) or more"),
            ("--max-response-tokens", self.max_response_tokens, self.max_response_tokens >= 1, "at least 1"),
            ("--limit", self.limit, self.limit is None or self.limit >= 1, "at least 1"),
            ("--slots", self.slots, self.slots is None or self.slots >= 1, "at least 1"),
            ("--workers", self.workers, self.workers >= 1, "at least 1"),
            ("--devices-per-worker", self.devices_per_worker, self.devices_per_worker >= 1, "at least 1"),
            ("--concurrency", self.concurrency, self.concurrency >= 1, "at least 1"),
            ("--engine", self.engine, self.engine in SLOTS, "torch or vllm"),
            ("--dtype", self.dtype, self.dtype in DTYPES, ", ".join(DTYPES)),
            ("--template", self.template, self.template in TEMPLATES, ", ".join(TEMPLATES)),
        ):
            if not fine:
                raise UserError(f"{flag} is out of range", found=value, needed=needed)
        if self.temperature == 0 and self.samples > 1:
            raise UserError(
                "greedy sampling gives the same response every time",
                found=f"--samples {self.samples} with --temperature 0",
                needed="a temperature above 0, or one sample",
            )
        self._check_where_it_runs()

    def _check_where_it_runs(self) -> None:
        if self.engine == "torch" and self.devices_per_worker > 1 and self.endpoint is None:
            raise UserError(
                "the torch engine does not divide a model",
                found=f"--devices-per-worker {self.devices_per_worker}",
                remedy="add --engine vllm",
            )
        named = {
            "--endpoint-model": self.endpoint_model is not None,
            "--api-key-variable": self.api_key_variable is not None,
            "--chat": self.chat,
        }
        given = [flag for flag, is_given in named.items() if is_given]
        if given and self.endpoint is None:
            raise UserError(f"{given[0]} is about a server", needed="--endpoint URL beside it")
        ours = {
            "--engine": self.engine != "torch",
            "--workers": self.workers > 1,
            "--devices-per-worker": self.devices_per_worker > 1,
            "--dtype": self.dtype != "auto",
            "--slots": self.slots is not None,
            "--ray-address": self.ray_address is not None,
        }
        given = [flag for flag, is_given in ours.items() if is_given]
        if given and self.endpoint is not None:
            raise UserError(
                "with --endpoint the server decodes",
                found=", ".join(given),
                remedy="leave that out; --concurrency says how many requests are sent at the same time",
            )

    @property
    def on_ray(self) -> bool:
        """Whether workers are Ray actors; otherwise the one worker lives in this process."""
        return self.workers > 1 or self.ray_address is not None

    def settings(self, max_prompt_tokens: int | None) -> EvaluationSettings:
        """How much is sampled, and how."""
        temperature = self.temperature
        if temperature is None:
            temperature = 0.0 if self.samples == 1 else 1.0
        sampling = SamplingSettings(
            temperature, self.top_p, self.top_k, self.max_response_tokens, tuple(self.stop)
        )
        return EvaluationSettings(self.samples, sampling, self.seed, max_prompt_tokens=max_prompt_tokens)

    def rollout(self) -> RolloutConfig:
        """The workers' configuration."""
        return RolloutConfig(
            engine=self.engine,
            workers=self.workers,
            slots=self.slots or SLOTS[self.engine],
            vllm=VLLMConfig(tensor_parallel=self.devices_per_worker),
        )
