"""What a configuration will do, in words: sizes with their arithmetic, the objective, the schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rlpost.config.dependent import evaluation_environment, known_positions, learnt_tokens, rows_per_prompt
from rlpost.config.explain.critic import critic_plan
from rlpost.config.explain.environment import environment
from rlpost.config.explain.lora import adapters
from rlpost.config.explain.runtime import runtime, schedule
from rlpost.config.held_out import is_judged
from rlpost.config.rules import reward_name, stage_objective
from rlpost.config.rules.critic_rules import learns_outcomes, stage_critic
from rlpost.config.schema import DataConfig, RunConfig, StageConfig
from rlpost.config.words import count, listed
from rlpost.estimator import Objective
from rlpost.estimator.selection.rewards import refilling

OWN_SIGNALS = frozenset({"old_logprob", "entropy"})
"""Token signals that a forward pass of the policy itself gives."""


def explain(config: RunConfig) -> str:
    """The plan of a run, one block for the run and one for each stage."""
    blocks = [_block(f"run `{config.name}`", _run(config))]
    for number, stage in enumerate(config.stages, 1):
        title = f"stage {number} of {len(config.stages)}: `{stage.name}`"
        blocks.append(_block(title, _stage(stage, config)))
    return "\n\n".join(blocks)


def sizes(config: RunConfig) -> str:
    """The arithmetic of the run alone: for each stage what one step takes, and all steps together."""
    blocks = []
    for stage in config.stages:
        entries = (entry for entry in _stage(stage, config) if entry[0] in ("each step", "in total"))
        blocks.append(_block(f"stage `{stage.name}`: {stage.algorithm['base']}", entries))
    return "\n".join(blocks)


def _block(title: str, entries: Iterator[tuple[str, str]]) -> str:
    lines = [title]
    for label, text in entries:
        head, *rest = text.splitlines()
        lines.append(f"  {label:12s}{head}")
        lines += [f"  {'':12s}{line}" for line in rest]
    return "\n".join(lines)


def _run(config: RunConfig) -> Iterator[tuple[str, str]]:
    scoring, checkpoint = config.scoring, config.checkpoint
    scorers = f"{count(scoring.workers, 'process', 'processes')}, {scoring.deadline_s:g} s a sample"
    if not any(stage.rewards for stage in config.stages):
        scorers = "no reward function"
    limit = f"the run stops when more than {scoring.max_failure_share:.0%} of a step fail to score"
    every = f"every {count(checkpoint.every, 'step')} and at each stage's end"
    yield "model", _model(config)
    if config.model.lora is not None:
        yield "adapters", adapters(config.model.lora, config)
    yield "seed", str(config.seed)
    yield from runtime(config)
    yield "scoring", f"{scorers}; {limit}"
    yield "evaluation", _evaluation(config)
    yield "checkpoint", f"{every}, newest {checkpoint.keep} kept"


def _model(config: RunConfig) -> str:
    model, tiny = config.model.init, config.model.tiny
    if model == "tiny":
        size = f"{count(tiny.layers, 'layer')}, width {tiny.hidden_size}"
        model = f"tiny: Qwen2 of {size}, random weights from the seed"
    elif config.model.revision:
        model += f" at revision {config.model.revision}"
    return f"{model}; {config.model.dtype}"


def _evaluation(config: RunConfig) -> str:
    settings, last = config.evaluation, config.stages[-1].data
    if settings.data is not None:
        source = _source(settings.data)
    elif last.task is not None and not is_judged(config):
        return "none: nothing judges answers; `rewards: NAME` would have the task's held-out split scored"
    elif last.task is not None:
        source = f"{_source(last)}, its held-out split"
    else:
        return "none: no evaluation.data, and no task with a held-out split in the last stage"
    problems = f"the first {count(settings.problems, 'problem')}" if settings.problems else "all problems"
    through = evaluation_environment(config)
    source += f", through the environment {through.name}" if through is not None else ""
    mode = f"sampled at temperature {settings.temperature:g}" if settings.temperature else "greedy"
    mode += f", top_p {settings.top_p:g}" if settings.top_p < 1 else ""
    mode += f", top_k {settings.top_k}" if settings.top_k else ""
    often = f", every {count(settings.every, 'step')}" if settings.every else ""
    answers = count(settings.samples_per_problem, "response")
    asked = f"{source}: {problems}, {answers} each, {mode}; before{often} and after"
    others = [f"{name} ({_source(data)})" for name, data in settings.others.items()]
    return f"{asked}; the same of {listed(others)}" if others else asked


def _stage(stage: StageConfig, config: RunConfig) -> Iterator[tuple[str, str]]:
    yield "learns from", _learns_from(stage)
    yield "data", f"{_source(stage.data)}; template {stage.data.template}; {_overlong(stage.data)}"
    if stage.environment is not None:
        yield "environment", environment(stage.environment, stage)
    if stage.has_rollouts:
        yield "rewards", _rewards(stage)
    yield "each step", _arithmetic(stage, config)
    objective = stage_objective(stage)
    if stage.has_rollouts:
        yield "schedule", schedule(stage, refills=refilling(objective.selection) is not None)
    yield from _further_work(stage, objective)
    yield "in total", _budget(stage)
    yield "optimizer", _optimizer(stage)
    if (critic := stage_critic(stage, objective)) is not None:
        yield "critic", critic_plan(critic, stage, objective, config)
    yield "objective", f"{stage.algorithm['base']}\n{objective.describe()}"
    for note in _notes(stage):
        yield "note", note


def _learns_from(stage: StageConfig) -> str:
    if not stage.has_rollouts:
        pairs = f", each preferred to the response in `{stage.data.rejected_column}`"
        return "demonstrations" + (pairs if stage.data.rejected_column is not None else "")
    sampled = f"sampled responses, {_sampling(stage)}"
    if not stage.has_demonstrations:
        return sampled
    return f"{sampled};\nand the demonstration of each prompt that has one, worth a reward of " + (
        f"{stage.data.demonstration_reward:g}"
    )


def _sampling(stage: StageConfig) -> str:
    rollout = stage.rollout
    parts = [f"temperature {rollout.temperature:g}"]
    parts += [f"top_p {rollout.top_p:g}"] if rollout.top_p < 1 else []
    parts += [f"top_k {rollout.top_k}"] if rollout.top_k else []
    each = " a turn" if stage.environment is not None else ""
    parts += [f"at most {count(rollout.max_response_tokens, 'token')}{each}"]
    workers = f"{count(rollout.workers, 'worker')} x {count(rollout.slots, 'slot')}"
    return f"{', '.join(parts)}, {workers}"


def _rewards(stage: StageConfig) -> str:
    parts = ["what the environment gives"] if stage.environment is not None else []
    parts += [f"{reward.weight:g} x {reward_name(reward)}" for reward in stage.rewards]
    return " + ".join(parts) or "none, and the algorithm reads none"


def _source(data: DataConfig) -> str:
    if data.task is not None:
        return f"task {data.task}"
    if data.dataset is not None:
        subset = f", subset {data.subset}" if data.subset else ""
        return f"dataset {data.dataset}{subset}, split {data.split}"
    return str(data.path)


def _overlong(data: DataConfig) -> str:
    fate = {
        "error": "are an error",
        "drop": "are dropped and counted",
        "truncate": "lose their start and are counted",
    }
    prompts = f"prompts above {data.max_prompt_tokens} tokens {fate[data.overlong_prompts]}"
    limit = data.max_demonstration_tokens
    if data.demonstration_column is None or limit is None:
        return prompts
    fate["truncate"] = "lose their end and are counted"
    return f"{prompts},\ndemonstrations above {limit} tokens {fate[data.overlong_demonstrations]}"


def _arithmetic(stage: StageConfig, config: RunConfig) -> str:
    """The batch sizes of a step, each with its unit."""
    train, ranks = stage.train, config.cluster.learner_ranks
    sequences = train.prompts_per_step * rows_per_prompt(stage)
    update = sequences // train.updates_per_step
    share = math.ceil(update / ranks)
    per_rank = f", at most {share} on each of {ranks} ranks" if ranks > 1 else ""
    return "\n".join(
        [
            f"{count(train.prompts_per_step, 'prompt')} x {_of_a_prompt(stage)} "
            f"= {count(sequences, 'sequence')}",
            f"{count(train.updates_per_step, 'update')} of {count(update, 'sequence')}{per_rank}",
            _microbatches(stage, config, share),
        ]
    )


def _of_a_prompt(stage: StageConfig) -> str:
    if not stage.has_rollouts:
        return "2 responses" if rows_per_prompt(stage) == 2 else "1 demonstration"
    samples = count(stage.train.samples_per_prompt, "sample")
    return f"({samples} + 1 demonstration)" if stage.source == "both" else samples


def _microbatches(stage: StageConfig, config: RunConfig, share: int) -> str:
    """What a rank's share of an update is cut into, as far as lengths are known before the data is read."""
    budget, positions = stage.train.tokens_per_microbatch, known_positions(stage, config)
    whole = f"an update{' and rank' if config.cluster.learner_ranks > 1 else ''}"
    prompt, response = stage.data.max_prompt_tokens, learnt_tokens(stage)
    if response is None and positions is None:
        return f"micro-batches of {budget} tokens {whole} (demonstrations are as long as the data has them)"
    longest = math.inf if response is None else prompt + response
    length = f"{prompt} + {response} = {longest} tokens"
    if positions is not None and positions < longest:
        longest, length = positions, f"{positions} tokens, which the model reads"
    # An episode that does not fit goes alone.
    together = max(1, budget // int(longest))
    return (
        f"at most {count(math.ceil(share / together), 'micro-batch', 'micro-batches')} of {budget} tokens "
        f"{whole} (a sequence has at most {length}, so {together} always fit)"
    )


def _further_work(stage: StageConfig, objective: Objective) -> Iterator[tuple[str, str]]:
    """What a step does beside sampling and updating, because some part of the objective asks for it."""
    train = stage.train
    names = objective.signals_for(on_policy=train.updates_per_step == 1)
    passes = [f"one of the policy for {' and '.join(own)}"] if (own := sorted(names & OWN_SIGNALS)) else []
    passes += ["one of the reference for ref_logprob"] if "ref_logprob" in names else []
    passes += ["one of the teacher for teacher_logprob"] if "teacher_logprob" in names else []
    critic = "the token reward model" if learns_outcomes(objective) else "the critic for its values"
    passes += [f"one of {critic}"] if objective.value_heads else []
    if passes:
        yield "signals", f"forward passes before the updates: {', '.join(passes)}"
    if (refill := refilling(objective.selection)) is not None:
        prompts = refill.max_rounds * train.prompts_per_step
        samples = count(train.samples_per_prompt, "sample")
        yield (
            "refill",
            f"until {count(train.prompts_per_step, 'group')} can teach something, in at most "
            f"{count(refill.max_rounds, 'round')}:\n"
            f"at most {prompts} prompts x {samples} = {prompts * train.samples_per_prompt} samples a step",
        )
    asked = objective.sequence_signals
    if "greedy_reward" in asked:
        yield "greedy", "one more response of each prompt, at temperature 0, scored and never trained on"
    if any(name.startswith("prompt_") for name in asked):
        yield "history", "the rewards' number, mean and variance of each prompt, over the run"


def _budget(stage: StageConfig) -> str:
    train = stage.train
    prompts = train.steps * train.prompts_per_step
    samples = [count(prompts * train.samples_per_prompt, "sample")] if stage.has_rollouts else []
    if stage.has_demonstrations:
        samples.append(count(prompts, "demonstration" if stage.data.rejected_column is None else "pair"))
    return (
        f"{count(train.steps, 'step')}, {count(prompts, 'prompt')}, {', '.join(samples)}, "
        f"{count(train.steps * train.updates_per_step, 'update')}; epochs depend on the data's size"
    )


def _optimizer(stage: StageConfig) -> str:
    train = stage.train
    warmup = f"{count(train.warmup_steps, 'update')} of warm-up, then " if train.warmup_steps else ""
    fate = {"constant": "constant", "linear": "linearly down to 0", "cosine": "down to 0 along a cosine"}
    return (
        f"AdamW, learning rate {train.learning_rate:g}, {warmup}{fate[train.schedule]}; "
        f"gradient norm clipped at {train.max_grad_norm:g}"
    )


def _notes(stage: StageConfig) -> Iterator[str]:
    rollout, train = stage.rollout, stage.train
    if stage.has_rollouts and (rollout.top_p < 1 or rollout.top_k):
        yield (
            "top_p and top_k cut the distribution that is sampled; the learner's log-probs are of all\n"
            "tokens: logprob gaps are then expected, and the policy never sees the tokens that were cut off"
        )
    if train.warmup_steps >= train.steps * train.updates_per_step:
        yield (
            f"the warm-up of {count(train.warmup_steps, 'update')} is not over after the stage's "
            f"{count(train.steps * train.updates_per_step, 'update')}: the learning rate stays below "
            f"{train.learning_rate:g}"
        )
