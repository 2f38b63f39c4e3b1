"""The configuration tree: every key of a YAML recipe, its type, default and meaning.

Rules over several keys live in `rlpost.config.rules`, one function each.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Unknown keys are errors; a loaded configuration never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class TinyModelConfig(Section):
    """The model that `model.init: tiny` builds on the spot: Qwen2 architecture, byte tokens."""

    hidden_size: int = Field(default=128, ge=8)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    intermediate_size: int = Field(default=512, ge=8)
    max_positions: int = Field(default=4096, ge=16)
    tie_embeddings: bool = True


class ModelConfig(Section):
    """The policy's starting point."""

    init: str
    """A Hugging Face id, a local model directory, or `tiny` (random weights, built on the spot)."""
    revision: str | None = None
    """The hub revision to pin."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the policy's weights and activations; log-probs are always float32."""
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you have read that code."""
    tiny: TinyModelConfig = TinyModelConfig()


class DataConfig(Section):
    """Where prompts come from: exactly one of `path`, `dataset`, `task`."""

    path: str | None = None
    """A local .jsonl or .parquet file."""
    dataset: str | None = None
    """A Hugging Face dataset id."""
    subset: str | None = None
    split: str = "train"
    task: str | None = None
    """A built-in synthetic task, such as `addition`."""
    task_options: dict[str, Any] = {}
    prompt_column: str = "prompt"
    """Text, or a list of chat messages with `role` and `content`."""
    answer_column: str | None = "answer"
    """The gold answer; reward functions receive it as `answer`. None when rewards need none."""
    demonstration_column: str | None = None
    """A demonstrated response, for supervised stages."""
    id_column: str | None = None
    """A stable id; without one, a hash of the row's content."""
    template: Literal["auto", "chat", "none"] = "auto"
    """`chat` applies the tokenizer's template, `none` takes the text as it is; `auto` is `chat`
    when the tokenizer has a template."""
    system_prompt: str | None = None
    instruction: str | None = None
    """Appended to each text prompt, after a blank line."""
    max_prompt_tokens: int = Field(default=1024, ge=1)
    overlong_prompts: Literal["error", "drop", "truncate"] = "error"
    """What happens to prompts above `max_prompt_tokens`; dropped and truncated ones are counted.
    `truncate` keeps the last tokens."""
    limit: int | None = Field(default=None, ge=1)
    """Take only the first rows."""
    shuffle: bool = True
    """A new seeded order every epoch; otherwise file order."""


class RolloutConfig(Section):
    """How responses are sampled during training."""

    engine: Literal["torch"] = "torch"
    workers: int = Field(default=1, ge=1)
    """Rollout workers; more than one needs `cluster.mode: ray`."""
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    max_response_tokens: int = Field(default=1024, ge=1)
    stop: list[str] = []
    slots: int = Field(default=64, ge=1)
    """Responses that one worker decodes at the same time; finished ones make room."""


class RewardConfig(Section):
    """One reward function; several are summed by weight."""

    function: str
    """A file `path/to/file.py`, `path/to/file.py:name`, or a shipped one such as `gsm8k`."""
    weight: float = 1.0
    name: str | None = None
    """The name of its metric; the file's name without one."""
    options: dict[str, Any] = {}
    """Extra keyword arguments for the function."""


class ScoringConfig(Section):
    """The processes that run reward functions."""

    workers: int = Field(default=2, ge=1)
    deadline_s: float = Field(default=5.0, gt=0)
    """Seconds that one sample may take; past it the worker is killed and replaced."""
    max_failure_share: float = Field(default=0.2, ge=0, le=1)
    """The run stops when more than this share of a step's samples fail to score."""
    canary: bool = True
    """Before training, gold answers must score 1.0 and garbage must not, in the real workers."""


class TrainConfig(Section):
    """One stage's budget and optimizer. Two numbers set all sizes; see `rlpost explain`."""

    steps: int = Field(default=100, ge=1)
    prompts_per_step: int = Field(default=32, ge=1)
    samples_per_prompt: int = Field(default=8, ge=1)
    """Responses per prompt; 1 in a supervised stage."""
    updates_per_step: int = Field(default=1, ge=1)
    """Optimizer steps that one step's samples are divided into."""
    tokens_per_microbatch: int = Field(default=16384, ge=1)
    """Prompt plus response tokens of one forward pass; memory, never the result, depends on it."""
    layout: Literal["packed", "padded"] = "packed"
    """`packed` puts sequences end to end; `padded` buckets them by length."""
    learning_rate: float = Field(default=1e-6, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    """Updates over which the learning rate rises linearly from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)


class EvaluationConfig(Section):
    """Held-out problems, asked before, during and after training."""

    data: DataConfig | None = None
    """None: a synthetic task's own held-out split; no evaluation for other data."""
    problems: int | None = Field(default=None, ge=1)
    """Take only the first problems."""
    samples_per_problem: int = Field(default=1, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    max_response_tokens: int | None = None
    """None: the same as in training."""
    every: int = Field(default=0, ge=0)
    """Steps between evaluations during a stage; 0 means only before and after."""


class CheckpointConfig(Section):
    every: int = Field(default=50, ge=1)
    """Steps between checkpoints; one is also written at the end of every stage."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints kept."""


class ClusterConfig(Section):
    mode: Literal["inline", "ray"] = "inline"
    """`inline` runs everything in the driver's process (scorers excepted); `ray` as Ray actors."""
    learner_ranks: int = Field(default=1, ge=1)
    address: str | None = None
    """An existing Ray cluster; None starts one on this machine, bound to loopback."""
    deadline_s: float = Field(default=1800.0, gt=0)
    """Longest wait for any one answer of an actor."""
    threads: int | None = Field(default=None, ge=1)
    """Torch threads per process; None leaves torch's choice."""


class WeightsConfig(Section):
    probe_every: int = Field(default=50, ge=1)
    """Transfers between two probes; the first transfer is always probed."""
    probe_tolerance: float = Field(default=1e-3, gt=0)
    """Largest allowed |log-prob difference| between engine and learner on the probe."""


class MonitorConfig(Section):
    tensorboard: bool = True
    rollouts: bool = True
    """Write every step's trajectories to rollouts/."""


class StageConfig(Section):
    """One stage, complete: what the stage does not say, the top level says."""

    name: str
    source: Literal["rollouts", "demonstrations"] = "rollouts"
    """Learn from sampled responses, or from the dataset's demonstrations."""
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    rewards: list[RewardConfig] = []
    algorithm: dict[str, Any]
    """`{base: grpo, ...}`: a row of `rlpost algorithms` and the parts changed in it."""
    train: TrainConfig = TrainConfig()


class RunConfig(Section):
    """A resolved configuration: what `config.yaml` in the run directory holds."""

    name: str = "run"
    seed: int = 0
    output: str = "runs"
    """Run directories are made under this folder."""
    model: ModelConfig
    stages: list[StageConfig] = Field(min_length=1)
    scoring: ScoringConfig = ScoringConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    cluster: ClusterConfig = ClusterConfig()
    weights: WeightsConfig = WeightsConfig()
    monitor: MonitorConfig = MonitorConfig()
