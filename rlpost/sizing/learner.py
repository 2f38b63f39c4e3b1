"""The learner's ranks: what each holds, and what comes and goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rlpost.config import stage_objective
from rlpost.config.rules.critic_rules import stage_critic
from rlpost.config.rules.teacher_rules import reads_teacher
from rlpost.config.schema import CriticConfig, RunConfig, StageConfig, TeacherConfig
from rlpost.sizing import process_sizes
from rlpost.sizing.activations import Pass, backward_bytes, head_bytes, kept_bytes
from rlpost.sizing.lengths import largest_microbatch, stage_lengths
from rlpost.sizing.memory import MOMENTS, Kind, Line, Moment, Role
from rlpost.sizing.model_facts import ModelFacts, Parameter, model_facts
from rlpost.sizing.model_states import model_states, own_part
from rlpost.sizing.words import share, size

FLOAT32 = 4
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
LIVE_ELEMENTS = 10**9
"""Elements that DeepSpeed's ZeRO 3 keeps gathered at most (`stage3_max_live_parameters`), and steps at a time
(`sub_group_size`); rlpost leaves both as they are."""
PERSISTENT_SHARE = 512
"""ZeRO 3 leaves tensors whole with at most one of so many of a bucket's elements: `settings_of_deepspeed`."""


@dataclass(frozen=True)
class LearnerSetting:
    """What a stage asks of each rank.

    Attributes:
        stage: of ZeRO; 0 for the torch backend.
        kind: the memory that the rank computes in.
    """

    config: RunConfig
    train_stage: StageConfig
    facts: ModelFacts
    kind: Kind
    stage: int
    ranks: int
    run: Pass
    reference: bool
    teacher: TeacherConfig | None
    critic: CriticConfig | None
    entropy_gradient: bool

    @classmethod
    def of(cls, config: RunConfig, stage: StageConfig, facts: ModelFacts, kind: Kind) -> LearnerSetting:
        objective = stage_objective(stage)
        lengths = stage_lengths(config, stage, facts)
        return cls(
            config=config,
            train_stage=stage,
            facts=facts,
            kind=kind,
            stage=config.learner.zero_stage if config.learner.backend == "deepspeed" else 0,
            ranks=config.cluster.learner_ranks,
            run=Pass(
                tokens=largest_microbatch(config, stage, lengths),
                compute_bytes=DTYPE_BYTES[config.model.dtype],
                checkpointing=config.model.gradient_checkpointing,
                packed=stage.train.layout == "packed",
                on_accelerator=kind == "accelerator",
            ),
            reference="ref_logprob" in objective.signals,
            teacher=stage.teacher if reads_teacher(objective) else None,
            critic=stage_critic(stage, objective),
            entropy_gradient=objective.needs_entropy_gradient,
        )

    @property
    def backend(self) -> str:
        """In words."""
        return f"ZeRO {self.stage}" if self.config.learner.backend == "deepspeed" else "torch"

    @property
    def bucket(self) -> int:
        """Bytes of what ranks exchange at a time."""
        return self.config.learner.bucket_mib * 2**20


def learner_roles(setting: LearnerSetting, hub: bool) -> tuple[Role, ...]:
    """The first rank, which also loads, sends and saves, and the others."""
    common = tuple(_common(setting, hub))
    first = Role("first learner rank", 1, (*common, *_first_rank(setting)))
    others = (Role("learner rank", setting.ranks - 1, common),) if setting.ranks > 1 else ()
    return (first, *others)


def _common(setting: LearnerSetting, hub: bool) -> Iterator[Line]:
    deepspeed = setting.config.learner.backend == "deepspeed"
    yield process_sizes.learner(deepspeed, in_driver=setting.config.cluster.mode == "inline")
    if setting.kind == "accelerator":
        yield process_sizes.context(setting.ranks)
    yield from state_lines(setting, setting.facts.parameters, "")
    yield from _frozen_models(setting, hub)
    yield from _critic(setting, hub)
    yield from _passes(setting)
    yield from _step(setting)
    if deepspeed and setting.stage:
        yield from _zero_buffers(setting)
    if setting.kind == "accelerator" and setting.stage < 3:
        formula = f"4 bytes x {size(setting.facts.base)} parameters: every rank loads all of it"
        yield Line("the model, on its way", FLOAT32 * setting.facts.base, formula, "host", ("load",))


def state_lines(setting: LearnerSetting, parameters: tuple[Parameter, ...], of: str) -> Iterator[Line]:
    """Weights, gradients and optimizer state of a network that is trained; exact."""
    stage, ranks, learner = setting.stage, setting.ranks, setting.config.learner
    states = model_states(parameters, stage, ranks)
    total, trained = (
        size(sum(p.elements for p in parameters)),
        size(sum(p.elements for p in parameters if p.trained)),
    )
    over = share(ranks)
    weights_kind: Kind = "host" if learner.offload_parameters and stage == 3 else setting.kind
    state_kind: Kind = "host" if learner.offload_optimizer and stage else setting.kind
    formula = f"4 bytes x {total} parameters{over if stage == 3 else ''}"
    yield Line(f"weights{of}", states.weights, formula, weights_kind, exact=True)
    kind = state_kind if stage >= 2 else setting.kind
    moments: tuple[Moment, ...] = ("update", "step")
    if stage == 3 or kind != setting.kind:
        moments = MOMENTS
    elif stage == 1:
        moments = ("update",)
    formula = f"4 bytes x {trained} trained{over if stage >= 2 else ''}"
    yield Line(f"gradients{of}", states.gradients, formula, kind, moments, exact=True)
    held = "8 bytes (AdamW's moments)" if stage == 0 else "12 bytes (float32 copy, AdamW's moments)"
    formula = f"{held} x {trained} trained{over if stage else ''}"
    yield Line(f"optimizer{of}", states.optimizer, formula, state_kind, exact=True)


def _frozen_models(setting: LearnerSetting, hub: bool) -> Iterator[Line]:
    facts, ranks = setting.facts, setting.ranks
    divided = setting.stage == 3
    if setting.reference:
        adapted = facts.trained != facts.total
        elements = facts.trained if adapted else facts.base
        whole = not divided or adapted
        bytes_ = FLOAT32 * (elements if whole else _part(facts.parameters, ranks))
        formula = f"4 bytes x {size(elements)} {'of the adapter' if adapted else 'parameters'}"
        yield Line("reference", bytes_, formula + ("" if whole else share(ranks)), setting.kind, exact=True)
    if setting.teacher is not None:
        own = setting.teacher
        update = {"init": own.init, "revision": own.revision, "trust_remote_code": own.trust_remote_code}
        theirs = model_facts(setting.config.model.model_copy(update=update | {"lora": None}), hub=hub)
        bytes_ = FLOAT32 * (_part(theirs.parameters, ranks) if divided else theirs.total)
        formula = f"4 bytes x {size(theirs.total)} parameters of {own.init}{share(ranks) if divided else ''}"
        yield Line("teacher", bytes_, formula, setting.kind, exact=True)


def _critic(setting: LearnerSetting, hub: bool) -> Iterator[Line]:
    """One with its own backbone: the model without its output layer, all of it trained, and a head."""
    critic = setting.critic
    if critic is None or critic.shared:
        return
    model = setting.config.model.model_copy(update={"lora": None})
    if critic.init is not None:
        model = model.model_copy(update={"init": critic.init, "revision": None})
    facts = model_facts(model, hub=hub)
    parameters = list(facts.parameters)
    if not facts.tied:
        parameters.remove(Parameter(facts.vocabulary * facts.hidden, vector=False))
    yield from state_lines(setting, (*parameters, Parameter(facts.hidden, vector=False)), " of the critic")


def _passes(setting: LearnerSetting) -> Iterator[Line]:
    facts, run = setting.facts, setting.run
    kept = kept_bytes(facts, run)
    how = "gradient checkpointing" if run.checkpointing else f"all of {facts.layers} layers"
    limit = f"{run.tokens:,} tokens, the longest micro-batch"
    yield Line("activations", kept, f"{limit}; {how}", setting.kind, ("update",))
    largest = max(
        head_bytes(facts, run, entropy_gradient=setting.entropy_gradient), backward_bytes(facts, run)
    )
    formula = "blocks of logits, the output layer's gradient, gradients of a layer's activations"
    yield Line("backward pass", largest, formula, setting.kind, ("update",))
    if setting.kind == "host":
        # Lengths differ every time, so what one pass frees is seldom what the next one asks for.
        wasted = int(process_sizes.HEAP_SHARE * (kept + largest))
        formula = f"{process_sizes.HEAP_SHARE:.0%} of a pass: what the C library keeps of freed memory"
        yield Line("heap", wasted, formula, "host")


def _step(setting: LearnerSetting) -> Iterator[Line]:
    stage, part = setting.stage, own_part(setting.facts.parameters, setting.stage, setting.ranks)
    offloaded = setting.config.learner.offload_optimizer and stage
    kind: Kind = "host" if offloaded else setting.kind
    at_once = min(part, LIVE_ELEMENTS) if stage == 3 else part
    if kind == "accelerator":
        formula = f"4 bytes x {size(at_once)}: square roots of AdamW's second moments"
        yield Line("AdamW's step", FLOAT32 * at_once, formula, kind, ("step",))
    else:
        largest = at_once if stage else setting.facts.largest
        formula = f"2 x 4 bytes x {size(largest)}: a tensor's new second moments and quotients"
        yield Line("AdamW's step", 2 * FLOAT32 * largest, formula, kind, ("step",))
    if stage and not (offloaded and stage == 3):
        copies = 2 if stage == 1 else 1
        formula = f"{copies} x 4 bytes x {size(at_once)}: gradients in the optimizer's order"
        yield Line("gradients, flat", copies * FLOAT32 * at_once, formula, kind, ("step",))


def _zero_buffers(setting: LearnerSetting) -> Iterator[Line]:
    facts, learner, ranks = setting.facts, setting.config.learner, setting.ranks
    part = own_part(facts.parameters, setting.stage, ranks)
    if setting.stage == 3:
        yield Line("bucket", setting.bucket, "learner.bucket_mib, for gradients", setting.kind)
        whole = facts.small(setting.bucket // 4 // PERSISTENT_SHARE)
        formula = f"4 bytes x {size(whole)}: tensors too small to be divided"
        yield Line("small tensors", FLOAT32 * whole, formula, setting.kind)
        live = min(facts.total, LIVE_ELEMENTS + facts.largest_bucket)
        formula = f"4 bytes x {size(live)}: layers that are whole at the same time"
        yield Line("gathered weights", FLOAT32 * live, formula, setting.kind, ("update",))
        gathered = max(setting.bucket, FLOAT32 * facts.largest)
        formula = "a bucket of whole weights, or the largest tensor"
        yield Line("gathering", gathered, formula, setting.kind, ("send", "save"))
        if learner.offload_optimizer:
            formula = f"4 bytes x {size(part)}: the step's own gradients"
            yield Line("gradients, for the step", FLOAT32 * part, formula, "host")
        return
    yield Line("bucket", setting.bucket, "learner.bucket_mib, for gradients", setting.kind, ("update",))
    if setting.stage == 2 and not learner.offload_optimizer:
        formula = f"2 x 4 bytes x {size(part)}: the pass's gradients, and their sum with those before"
        yield Line("gradients, summed", 2 * FLOAT32 * part, formula, setting.kind, ("update",))
    if learner.offload_optimizer:
        formula = f"4 bytes x {size(facts.largest)}, the largest tensor"
        yield Line("gradient on its way", FLOAT32 * facts.largest, formula, setting.kind)
        copies = 3 if setting.stage == 1 else 2
        formula = (
            f"{copies} x 4 bytes x {size(part)}: new weights, gradients of passes; and the largest tensor"
        )
        yield Line("offload buffers", FLOAT32 * (copies * part + facts.largest), formula, "host")


def _first_rank(setting: LearnerSetting) -> Iterator[Line]:
    facts, config = setting.facts, setting.config
    saved = 12 * facts.trained + (FLOAT32 * facts.trained if setting.reference else 0)
    if setting.kind == "accelerator" or setting.config.learner.backend == "deepspeed":
        per = 16 if setting.reference else 12
        formula = f"{per} bytes x {size(facts.trained)} trained: gathered before it is written"
        yield Line("checkpoint", saved, formula, "host", ("save",))
    if setting.stage == 3:
        own = FLOAT32 if config.model.init == "tiny" else 2
        formula = f"{own} bytes x {size(facts.base)} parameters, as they were saved"
        yield Line("the model, on its way", own * facts.base, formula, "host", ("load",))


def _part(parameters: tuple[Parameter, ...], ranks: int) -> int:
    return sum(-(-p.elements // ranks) for p in parameters)
