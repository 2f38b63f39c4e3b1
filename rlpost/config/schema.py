"""The configuration tree: every key of a YAML recipe, its type, default and meaning.

Rules over several keys live in `rlpost.config.rules`, one function each.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rlpost.config.launching import LaunchConfig, MachinesConfig
from rlpost.config.section import Section

Beta = Annotated[float, Field(ge=0, lt=1)]


class TinyModelConfig(Section):
    """The model that `model.init: tiny` builds on the spot: Qwen2 architecture, byte tokens."""

    hidden_size: int = Field(default=128, ge=8)
    """Width of the residual stream; a multiple of twice `heads`."""
    layers: int = Field(default=4, ge=1)
    """Transformer blocks."""
    heads: int = Field(default=4, ge=1)
    """Attention heads of a block."""
    intermediate_size: int = Field(default=512, ge=8)
    """Width of the feed-forward layer."""
    max_positions: int = Field(default=4096, ge=16)
    """The longest sequence, prompt plus response, in tokens."""
    tie_embeddings: bool = True
    """Whether input and output embeddings share one matrix."""


class LoraConfig(Section):
    """Low-rank adapters (LoRA): two small matrices beside each frozen one are trained in its place."""

    rank: int = Field(default=16, ge=1)
    """The adapters' inner width: a weight can be changed by a matrix of at most this rank."""
    alpha: float = Field(default=32.0, gt=0)
    """The adapters' product is multiplied with `alpha / rank`."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """The linear layers with adapters: all of the decoder, or a list of names such as `[q_proj, v_proj]`. The
    output layer has none."""
    rslora: bool = False
    """Multiply with `alpha / sqrt(rank)` instead: the same learning rate then serves every rank."""
    dropout: float = 0.0
    """Must be 0: log-probs in training are those of the distribution that was sampled, so nothing in the
    learner is dropped at random."""


class ModelConfig(Section):
    """The policy's starting point."""

    init: str
    """A Hugging Face id, a local model directory, or `tiny` (random weights, built on the spot)."""
    revision: str | None = None
    """The hub revision to pin."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the policy's weights and activations; log-probs are always float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you have read that code."""
    lora: LoraConfig | None = None
    """Train adapters (LoRA) beside the frozen weights. Null: all weights are trained."""
    tiny: TinyModelConfig = TinyModelConfig()
    """The size of the tiny model; read only with `init: tiny`."""


class DataConfig(Section):
    """Where prompts come from: exactly one of `path`, `dataset`, `task`."""

    path: str | None = None
    """A local .jsonl or .parquet file."""
    dataset: str | None = None
    """A Hugging Face dataset id."""
    revision: str | None = None
    """The hub revision of `dataset` to pin."""
    subset: str | None = None
    """The subset (configuration) of `dataset`."""
    split: str = "train"
    """The split of `dataset` or `task`."""
    task: str | None = None
    """A built-in synthetic task, such as `addition`."""
    task_options: dict[str, Any] = {}
    """Arguments of `task`."""
    prompt_column: str = "prompt"
    """Text, or a list of chat messages with `role` and `content`."""
    tools_column: str | None = None
    """A list of tools in OpenAI's "function" format, which the chat template tells the model of; an
    environment brings its own."""
    answer_column: str | None = "answer"
    """The gold answer; reward functions receive it as `answer`. Null when rewards need none."""
    demonstration_column: str | None = None
    """A demonstrated response, for supervised stages: text, or the chat messages that follow the prompt, of
    which the assistant's are learnt. If it is `prompt_column` itself, that holds whole dialogues, and the
    demonstration begins with the assistant's first message."""
    rejected_column: str | None = None
    """With `source: demonstrations`, a response that the demonstration is preferred to, of the same form: a
    prompt then has two rows, with rewards 1 and 0."""
    max_demonstration_tokens: int | None = Field(default=None, ge=1)
    """The longest demonstration, in tokens, a dialogue's observations included. Null: what the model's
    positions leave beside the prompt."""
    overlong_demonstrations: Literal["error", "drop", "truncate"] = "error"
    """What happens to demonstrations above `max_demonstration_tokens`; dropped and truncated ones are
    counted. A dropped one takes its prompt along, unless samples are trained too. `truncate` keeps the first
    tokens and puts no EOS behind them."""
    demonstration_reward: float = 1.0
    """The reward of a demonstration, for algorithms that compare it with the samples of its prompt."""
    prefill_column: str | None = None
    """How the model's response begins: the model goes on from there. It is part of the prompt and never
    trained; reward functions read it in front of the response. Rows without it begin with nothing."""
    variant_column: str | None = None
    """Names the form in which a problem is asked, such as `guided`; rewards are also reported by variant."""
    id_column: str | None = None
    """A stable id; without one, a hash of the row's content."""
    template: Literal["auto", "chat", "none"] = "auto"
    """`chat` applies the tokenizer's template, `none` takes the text as it is; `auto` is `chat`
    when the tokenizer has a template."""
    system_prompt: str | None = None
    """A system message before each prompt; needs a chat template."""
    instruction: str | None = None
    """Appended to each text prompt, after a blank line."""
    max_prompt_tokens: int = Field(default=1024, ge=1)
    """The longest prompt, in tokens, after the template."""
    overlong_prompts: Literal["error", "drop", "truncate"] = "error"
    """What happens to prompts above `max_prompt_tokens`; dropped and truncated ones are counted.
    `truncate` keeps the last tokens."""
    max_broken_share: float | None = Field(default=None, ge=0, le=1)
    """The run is refused when more than this share of the rows is broken: not JSON, or a column is missing,
    empty or of a wrong type. Up to it they are left out, shown and counted. Null: 0.02 for prompts to
    train on. An evaluation takes no broken row."""
    limit: int | None = Field(default=None, ge=1)
    """Take only the first rows."""
    shuffle: bool = True
    """A new seeded order every epoch; otherwise file order."""


CPU_KV_CACHE_GIB = 1.0
"""What vLLM gets for keys and values without an accelerator, unless `kv_cache_gib` says otherwise."""


class VLLMConfig(Section):
    """The vLLM engine of each rollout worker; read only with `rollout.engine: vllm`."""

    tensor_parallel: int = Field(default=1, ge=1)
    """Accelerators of one machine that one engine is split over."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of an accelerator's memory for weights, activations, keys and values."""
    kv_cache_gib: float | None = Field(default=None, gt=0)
    """GiB for keys and values. Null: what is left of `gpu_memory_utilization`; 1 without an accelerator."""
    max_model_len: int | None = Field(default=None, ge=2)
    """The longest sequence, prompt plus response, in tokens. Null: all the model's positions."""
    enforce_eager: bool | None = None
    """Run the model without compilation and graphs: slower tokens, faster start. Null: only without
    an accelerator."""
    start_deadline_s: float = Field(default=900.0, gt=0)
    """Seconds until the engine must have loaded its model and be ready."""
    stall_deadline_s: float = Field(default=300.0, gt=0)
    """Longest wait for a sign of progress: the next token of any response, one part of the weights.
    An engine that shows none is ended, and its worker replaced."""


class RolloutConfig(Section):
    """How responses are sampled during training."""

    engine: Literal["torch", "vllm"] = "torch"
    """What decodes: `torch` samples with the Hugging Face model itself, on any machine; `vllm` with
    vLLM in a process of its own, which needs vLLM installed."""
    vllm: VLLMConfig = VLLMConfig()
    """The vLLM engine of each rollout worker; read only with `engine: vllm`."""
    workers: int = Field(default=1, ge=1)
    """Rollout workers; more than one needs `cluster.mode: ray`."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits, when sampling and in the learner alike."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the smallest set of tokens with this much probability; 1 keeps all."""
    top_k: int = Field(default=0, ge=0)
    """Sample from this many most probable tokens; 0 keeps all."""
    max_response_tokens: int = Field(default=1024, ge=1)
    """Longer responses are cut here and counted as truncated. With an environment, the limit of each turn."""
    stop: list[str] = []
    """A response ends when its text holds one of these."""
    slots: int = Field(default=64, ge=1)
    """Responses that one worker decodes at the same time; finished ones make room."""


class EnvironmentConfig(Section):
    """What answers the model's messages in a stage of several turns, and within which limits."""

    name: str
    """A shipped environment such as `lookup`, a class in a file (`path/to/file.py:Name`), functions in a
    file as tools (`tools:path/to/file.py`), a Gymnasium environment (`gymnasium:ID`), or a tool server
    (`mcp:COMMAND`)."""
    options: dict[str, Any] = {}
    """Keyword arguments of the environment."""
    tool_format: Literal["hermes", "call"] = "hermes"
    """How the model writes a tool call: `hermes` is JSON between <tool_call> tags, as Qwen's templates ask
    for; `call` is `name(value, ...)`, short enough for tiny models."""
    max_turns: int = Field(default=8, ge=1)
    """Turns of the model; an episode that is not done by then ends, and counts as cut off."""
    max_episode_tokens: int | None = Field(default=None, ge=1)
    """Tokens after the prompt, observations included; an episode that reaches it is cut off. Null: what the
    model's positions allow."""
    max_observation_tokens: int = Field(default=1024, ge=1)
    """Longer observations are cut at the end of their content, and counted."""
    turn_deadline_s: float = Field(default=30.0, gt=0)
    """Seconds that an environment may take for one answer."""
    episode_deadline_s: float = Field(default=600.0, gt=0)
    """Seconds that it may take for all answers of an episode together."""
    concurrency: int = Field(default=256, ge=1)
    """Episodes that the environments of one rollout worker have open at the same time."""
    processes: int = Field(default=1, ge=1)
    """Processes that each rollout worker divides its episodes over."""
    history: Literal["refuse", "as_sampled"] = "refuse"
    """What happens when the chat template would rewrite what the model said in earlier turns (such as leaving
    out its reasoning). `refuse` stops before anything is sampled; `as_sampled` goes on, and the model reads
    its earlier turns exactly as it sampled them."""


class RewardConfig(Section):
    """One reward function; several are summed by weight."""

    function: str
    """A file `path/to/file.py`, `path/to/file.py:name`, or a shipped one such as `gsm8k`."""
    weight: float = 1.0
    """Its factor in the sum."""
    name: str | None = None
    """The name of its metric; the file's name without one."""
    options: dict[str, Any] = {}
    """Extra keyword arguments for the function."""
    batch_size: int | None = Field(default=None, ge=1)
    """Samples that one worker scores at a time. An `async def` function has so many under way, each with
    its own deadline; one that takes lists gets so many in a call. Null: 32 for `async def`, otherwise 1."""


class ScoringConfig(Section):
    """The processes that run reward functions."""

    workers: int = Field(default=2, ge=1)
    """Warm processes that score at the same time."""
    deadline_s: float = Field(default=5.0, gt=0)
    """Seconds that one sample may take; past it the worker is killed and replaced."""
    memory_gib: float = Field(default=4.0, gt=0)
    """GiB of address space that each worker may take beyond its imports; a reward function that asks for more
    gets a MemoryError."""
    max_failure_share: float = Field(default=0.2, ge=0, le=1)
    """The run stops when more than this share of a step's samples fail to score."""
    canary: bool = True
    """Before training, gold answers must score 1.0 and garbage must not, in the real workers."""


class TrainConfig(Section):
    """One stage's budget and optimizer. Two numbers set all sizes; see `rlpost explain`."""

    steps: int = Field(default=100, ge=1)
    """Rounds of sampling, scoring and updating."""
    prompts_per_step: int = Field(default=32, ge=1)
    """Prompts drawn for one step."""
    samples_per_prompt: int = Field(default=8, ge=1)
    """Responses per prompt; 1 in a supervised stage."""
    updates_per_step: int = Field(default=1, ge=1)
    """Optimizer steps that one step's samples are divided into."""
    max_staleness: int = Field(default=0, ge=0)
    """Steps that the oldest token of a sample may lag behind the weights it trains. 0 samples and trains in
    turns; with 1 and more, workers sample ahead while the learner updates, and take new weights in flight."""
    tokens_per_microbatch: int = Field(default=16384, ge=1)
    """Prompt plus response tokens of one forward pass; memory, never the result, depends on it."""
    layout: Literal["packed", "padded"] = "packed"
    """`packed` puts sequences end to end; `padded` buckets them by length."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """AdamW's, at its highest."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """The learning rate after the warm-up: as it is, or down to 0 at the stage's end."""
    warmup_steps: int = Field(default=0, ge=0)
    """Updates over which the learning rate rises linearly from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = (0.9, 0.999)
    """AdamW's decay of the gradient's mean and of its square's."""
    epsilon: float = Field(default=1e-8, gt=0)
    """AdamW's term in the denominator."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The whole gradient is scaled down to this norm when it is longer."""


class CriticConfig(Section):
    """The value network of a stage whose algorithm reads values, as PPO does, or the token reward model of
    one that reads outcomes, as OREAL does; all else is as `train` says."""

    init: str | None = None
    """A Hugging Face id or a local model directory with the policy's tokenizer. Null: the policy's weights as
    they are when the stage begins."""
    shared: bool = False
    """One backbone with the policy, which then learns from both losses; only the head is the critic's own."""
    coefficient: float = Field(default=0.1, gt=0)
    """The weight of the critic's loss beside the policy's; read only with `shared: true`."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Of the critic's own AdamW, at its highest; with `shared: true` of the head alone."""
    warmup_steps: int = Field(default=0, ge=0)
    """First steps of the stage in which the critic learns and the policy stays as it is."""
    value_clip: float | None = Field(default=None, gt=0)
    """A value further than this from what it was before the step's updates learns nothing that takes it
    further still. Null: no limit. Others use 0.2 or 0.5. Of values alone."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The gradient of what is the critic's own is scaled down to this norm when it is longer."""


class TeacherConfig(Section):
    """A second, fixed model, whose log-probs of the policy's own samples the algorithm reads (`distil`)."""

    init: str
    """A Hugging Face id or a local model directory with the policy's tokenizer."""
    revision: str | None = None
    """The hub revision to pin."""
    trust_remote_code: bool = False
    """Run Python code that comes with the teacher. Off unless you have read that code."""


class EvaluationConfig(Section):
    """Held-out problems, asked before, during and after training."""

    data: DataConfig | None = None
    """Null: a synthetic task's own held-out split; no evaluation for other data."""
    others: dict[str, DataConfig] = {}
    """Further sets by name, each as in `data`, asked at the same moments and judged by the same rewards:
    metrics `eval/NAME/accuracy` and so on. `problems` and all other keys here hold for every set."""
    environment: EnvironmentConfig | None = None
    """What answers the model and alone judges it, where single turns are trained and whole episodes count.
    Null: the last stage's."""
    problems: int | None = Field(default=None, ge=1)
    """Take only the first problems."""
    samples_per_problem: int = Field(default=1, ge=1)
    """Responses per problem; the accuracy is their average."""
    temperature: float = Field(default=1.0, ge=0)
    """Divides the logits; 0 takes the most probable token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """As in `rollout`."""
    top_k: int = Field(default=0, ge=0)
    """As in `rollout`."""
    max_response_tokens: int | None = Field(default=None, ge=1)
    """Null: the same as in training. With an environment, the limit of each turn."""
    every: int = Field(default=0, ge=0)
    """Steps between evaluations during a stage; 0 means only before and after."""


class CheckpointConfig(Section):
    """What a run can be resumed from."""

    every: int = Field(default=50, ge=1)
    """Steps between checkpoints; one is also written at the end of every stage."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints kept."""
    grace_s: float = Field(default=120.0, gt=0)
    """Longest time that a run which is told to stop takes to save a checkpoint; then it ends without one."""


class ClusterConfig(Section):
    """Where the parts of a run live."""

    mode: Literal["inline", "ray"] = "inline"
    """`inline` runs everything in the driver's process (scorers excepted); `ray` as Ray actors."""
    learner_ranks: int = Field(default=1, ge=1)
    """Learner processes that share each update; more than one needs `mode: ray`."""
    address: str | None = None
    """An existing Ray cluster; null starts one on this machine, bound to loopback."""
    deadline_s: float = Field(default=1800.0, gt=0)
    """Longest wait for any one answer of an actor."""
    hang_deadline_s: float = Field(default=60.0, gt=0)
    """Longest silence of an actor's process, which answers even while it works. A silent one is lost."""
    report_every_s: float = Field(default=120.0, gt=0)
    """A wait this long is reported on the terminal: who waits for whom, since when, and what they do."""
    max_restarts: int = Field(default=3, ge=0)
    """Lost actors that are replaced before a further step is done; one more ends the run with the cause."""
    placement: Literal["split", "colocated"] = "split"
    """`split` gives learner ranks and rollout workers accelerators of their own; `colocated` lets them share:
    engines give up their memory while the learner works, so it needs `max_staleness: 0`."""
    threads: int | None = Field(default=None, ge=1)
    """Torch threads per process; null leaves torch's choice."""


class LearnerConfig(Section):
    """What trains the policy, on every learner rank and in all stages."""

    backend: Literal["torch", "deepspeed"] = "torch"
    """`torch` keeps weights, gradients and optimizer state whole on every rank; `deepspeed` divides
    them over the ranks, as `zero_stage` says. Both take the same steps and read each other's checkpoints."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed divides: 1 the optimizer's state, 2 the gradients too, 3 the weights too; 0 nothing."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in host memory and step there; needs a `zero_stage` of 1 or more."""
    offload_parameters: bool = False
    """Keep weights that are not in use in host memory; needs `zero_stage: 3`."""
    bucket_mib: int = Field(default=256, ge=1)
    """MiB of gradients or weights that ranks exchange at a time."""


class WeightsConfig(Section):
    """The weights' way from the learner to the engines, and the proofs that they arrived."""

    transport: Literal["auto", "shared_memory", "object_store", "broadcast"] = "auto"
    """How weights reach engines in processes of their own. `shared_memory`: they read the learner's memory,
    on one host; `object_store`: Ray carries a copy to each; `broadcast`: the learner sends to all at once,
    over NCCL between accelerators and gloo between CPUs. `auto`: `shared_memory` on one host;
    on several `broadcast`, or `object_store` when colocated."""
    probe_every: int = Field(default=50, ge=1)
    """Transfers between two probes; the first transfer is always probed."""
    probe_tolerance: float | None = Field(default=None, gt=0)
    """Largest allowed |log-prob difference| between engine and learner on the probe, in nats. Null: 0.001 in
    float32; 0.5 in bfloat16, where single tokens differ by much more than the usual 0.03."""
    deadline_s: float = Field(default=600.0, gt=0)
    """Longest time for one transfer to all engines, proofs included."""


class MonitorConfig(Section):
    """What a run writes beside its metrics."""

    tensorboard: bool = True
    """Write TensorBoard event files to the run directory."""
    rollouts: bool = True
    """Write every step's trajectories to rollouts/."""


class ReprofileConfig(Section):
    """New pivots from the same turns, once the policy has learnt those it has. Read by `rlpost train`."""

    directory: str
    """What `rlpost pivots` wrote: its candidates.jsonl, but for the dialogues in validation.jsonl."""
    above: float = 0.8
    """The pivots are used up when the mean reward of the last `window` steps is above this. Ours: the paper's
    authors reprofile "on saturation"."""
    window: int = Field(default=10, ge=1)
    """Steps, all of them on the present pivots."""
    most: int = Field(default=3, ge=1)
    """Times that a run may choose new pivots."""


class PivotsConfig(Section):
    """The turns of experts' dialogues at which the policy only sometimes does what the expert did."""

    trajectories: list[str] = Field(min_length=1)
    """JSONL files of chats that went well: a row has `messages`, the assistant's with `tool_calls`, and
    `tools`; maybe `id` and `source`, which are otherwise the line and the file's name."""
    stage: str | None = None
    """The stage that will train on them. Null: the only one that samples."""
    turns: Literal["all", "calls"] = "all"
    """Which of the model's turns are tried: all, or those that call a tool."""
    parallel_calls: Literal["keep", "skip"] = "keep"
    """Whether turns with several calls are tried."""
    error_turns: Literal["keep", "skip"] = "skip"
    """Whether turns are tried that a tool answered with an error."""
    error_pattern: str | None = None
    """A tool's answer is an error where this regular expression matches at its beginning. Null: where the
    message has `error: true` or `is_error: true`."""
    limit: int | None = Field(default=None, ge=1)
    """Try only so many turns, drawn at random from all trajectories."""
    samples: int = Field(default=8, ge=2)
    """Responses of the policy to each turn."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits."""
    max_action_tokens: int | None = Field(default=None, ge=1)
    """Longer responses are cut. Null: `rollout.max_response_tokens`."""
    threshold: float = 0.6
    """A pivot's mean reward is below this (lambda_diff). The paper's value is not public; this is ours."""
    min_variance: float = Field(default=1e-6, ge=0)
    """A pivot's rewards vary by more than this (their mean squared deviation)."""
    validation_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the trajectories whose pivots are held out."""
    baseline: bool = True
    """Also write as many turns drawn at random, to compare with."""
    reprofile: ReprofileConfig | None = None
    """Choose new pivots during training; null: never."""


class GuidanceConfig(Section):
    """Hard problems, each as it is and with the beginning of a solution too (POPE, arXiv 2601.18779)."""

    data: DataConfig | None = None
    """Problems with solutions in `demonstration_column`. Null: the stage's own `data`."""
    stage: str | None = None
    """The stage that will train on them. Null: the only one that samples."""
    samples: int = Field(default=128, ge=1)
    """Responses to each problem, sampled as in the stage's training. A hard problem is solved by none."""
    first: int = Field(default=16, ge=1)
    """A problem that one of its first so many responses solves is not asked for the others. Saves most of the
    time, and changes nothing about which problems are hard."""
    success: float = 1.0
    """A response with at least this reward solves its problem."""
    parts: int = Field(default=4, ge=1)
    """A solution's beginnings are multiples of this part of its tokens: 4 tries 1/4, 2/4, 3/4 and the whole,
    short ones first, but for those that hold the final answer. The paper's grid is not public; this is
    ours."""
    boundary: Literal["token", "line", "sentence"] = "token"
    """Where a beginning may end. Lines and sentences: at the last such end before the grid's point, or where
    there is none at the first one after it."""
    samples_per_prefix: int = Field(default=8, ge=1)
    """Responses to each beginning that is tried. The shortest one with a right response is chosen."""
    fallback: Literal["shortest", "leave_out"] = "shortest"
    """What becomes of a hard problem that no beginning helps: the shortest one all the same, or nothing."""
    leaks: Literal["text", "verifier"] = "text"
    """When a beginning holds the final answer, and is not used. `verifier`: the rewards give it alone a
    success. `text`: that, or the gold answer stands in it as a word or number of its own, and not in the
    problem."""
    mode: Literal["system", "user", "assistant"] = "system"
    """Where the guidance stands. `system`: `instruction` in a system message, the beginning behind the
    problem. `user`: both in the user's message, for chat templates without system messages. `assistant`: no
    instruction; the beginning opens the assistant's turn, and the model goes on from there."""
    instruction: str = (
        "You are given a problem and the beginning of a correct solution to it. Study the beginning and work "
        "out which steps it has already done. Then continue from the point where it stops, instead of "
        "starting over, and finish the solution with its final answer."
    )
    """What the model is told to do with the beginning of a solution."""
    heading: str = "Beginning of a solution:"
    """Stands between the problem and the beginning of its solution."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Guided prompts with more tokens, or too many for a whole response behind them, are not used; nothing is
    ever cut. Null: the stage's `data.max_prompt_tokens`."""


class StageConfig(Section):
    """One stage, complete: what the stage does not say, the top level says."""

    name: str
    """Names the stage in metrics, sample ids and overrides (`stages.NAME.train.steps=3`)."""
    source: Literal["rollouts", "demonstrations", "both"] = "rollouts"
    """Learn from sampled responses, from the dataset's demonstrations, or from `both` in one batch: each
    prompt's samples and then its demonstration."""
    data: DataConfig
    """Prompts of this stage."""
    rollout: RolloutConfig = RolloutConfig()
    """Sampling of this stage."""
    rewards: list[RewardConfig] = []
    """Reward functions of this stage; needed where responses are sampled, unless an environment gives
    rewards."""
    environment: EnvironmentConfig | None = None
    """What answers the model's messages; null for responses of a single turn."""
    algorithm: dict[str, Any]
    """`{base: grpo, ...}`: a row of `rlpost algorithms` and the parts changed in it."""
    critic: CriticConfig | None = None
    """The value network, for algorithms that read "value"; null gives them one with the defaults below."""
    teacher: TeacherConfig | None = None
    """The model to learn from, for algorithms that read "teacher_logprob", such as `distil`."""
    train: TrainConfig = TrainConfig()
    """Budget and optimizer of this stage."""

    @property
    def has_rollouts(self) -> bool:
        """Whether the stage samples responses."""
        return self.source != "demonstrations"

    @property
    def has_demonstrations(self) -> bool:
        """Whether it learns from the dataset's responses."""
        return self.source != "rollouts"


class RunConfig(Section):
    """A resolved configuration: what `config.yaml` in the run directory holds."""

    name: str = "run"
    """The run directory's name starts with it."""
    seed: int = Field(default=0, ge=0)
    """Decides everything random: initial weights, order of prompts, every sample."""
    output: str = "runs"
    """Run directories are made under this folder."""
    model: ModelConfig
    """The policy's starting point."""
    stages: list[StageConfig] = Field(min_length=1)
    """Run one after the other, each on the weights of the one before."""
    scoring: ScoringConfig = ScoringConfig()
    """The processes that run reward functions."""
    pivots: PivotsConfig | None = None
    """The turns of experts' dialogues worth training on, for `rlpost pivots`."""
    guidance: GuidanceConfig | None = None
    """Hard problems with the beginnings of their solutions, for `rlpost guide`."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Held-out problems, asked before, during and after training."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What a run can be resumed from."""
    cluster: ClusterConfig = ClusterConfig()
    """Where the parts of a run live."""
    learner: LearnerConfig = LearnerConfig()
    """What trains the policy."""
    weights: WeightsConfig = WeightsConfig()
    """The weights' way from the learner to the engines, and the proofs that they arrived."""
    monitor: MonitorConfig = MonitorConfig()
    """What a run writes beside its metrics."""
    machines: MachinesConfig = MachinesConfig()
    """The machines that a run is meant for."""
    launch: LaunchConfig = LaunchConfig()
    """How `rlpost launch` starts a run."""
