"""Rules over several keys, one function each; every message shows its arithmetic."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import rewards
from rlpost.config.dependent import sampled_tokens
from rlpost.config.held_out import configured_sets, is_judged
from rlpost.config.plugins import load_parts
from rlpost.config.problems import Problem
from rlpost.config.rules import (
    critic_rules,
    data_rules,
    engine_rules,
    environment_rules,
    guidance_rules,
    learner_rules,
    pivot_rules,
    schedule_rules,
    size_rules,
    source_rules,
    teacher_rules,
    transport_rules,
)
from rlpost.config.schema import DataConfig, RewardConfig, RunConfig, StageConfig
from rlpost.config.yaml_text import KeyPath
from rlpost.estimator import CompositionError, Objective, build_objective

TOKEN_SIGNALS = frozenset(
    {"old_logprob", "ref_logprob", "behaviour_logprob", "entropy", teacher_rules.TEACHER}
)
SEQUENCE_SIGNALS = frozenset(
    {
        *("prompt_visits", "prompt_samples", "prompt_mean", "prompt_variance"),
        *("greedy_reward", "reward_parts", "draw_seed"),
    }
)

Rule = Callable[[RunConfig], Iterator[Problem]]
ObjectiveRule = Callable[[Iterator[tuple[int, StageConfig, Objective]]], Iterator[Problem]]


def check(config: RunConfig) -> list[Problem]:
    """Every broken rule of a configuration whose single keys are right."""
    return [problem for rule in RULES for problem in rule(config)]


def stage_names_are_unique_words(config: RunConfig) -> Iterator[Problem]:
    """A stage's name is part of file names, sample ids and override paths."""
    counts = Counter(stage.name for stage in config.stages)
    for index, stage in enumerate(config.stages):
        path: KeyPath = ("stages", index, "name")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", stage.name):
            yield Problem(
                path,
                "a stage's name is not a plain word",
                found=repr(stage.name),
                needed="letters, digits, `_` or `-`, starting with a letter",
            )
        elif counts[stage.name] > 1:
            yield Problem(
                path, f"{counts[stage.name]} stages have the name `{stage.name}`", needed="a name for each"
            )


def prompts_have_one_source(config: RunConfig) -> Iterator[Problem]:
    """Exactly one of `path`, `dataset` and `task`; options of another source would have no effect."""
    for path, data in _data_sections(config):
        sources = {"path": data.path, "dataset": data.dataset, "task": data.task}
        given = {name: value for name, value in sources.items() if value is not None}
        if len(given) != 1:
            found = " and ".join(f"{name}: {value}" for name, value in given.items()) or "none of them"
            needed = "exactly one of `path`, `dataset`, `task`"
            remedy = f"set `{list(given)[-1]}` to null to drop it" if given else None
            yield Problem(path, "prompts need one source", found, needed, remedy)
        if data.subset is not None and data.dataset is None:
            yield Problem((*path, "subset"), "`subset` is read only with `dataset`", found=repr(data.subset))
        if data.task_options and data.task is None:
            yield Problem(
                (*path, "task_options"), "`task_options` are read only with `task`", found=data.task_options
            )


def rollouts_are_rewarded(config: RunConfig) -> Iterator[Problem]:
    """A stage whose algorithm reads the rewards of samples needs something that gives them."""
    for index, stage, objective in _valid_objectives(config):
        rewarded = stage.rewards or stage.environment is not None
        if stage.has_rollouts and objective.reads_rewards and not rewarded:
            yield Problem(
                ("stages", index, "rewards"),
                f"stage `{stage.name}` learns from sampled responses, but nothing rewards them",
                needed="`rewards: NAME` or a list of reward functions, or an `environment`",
                remedy=f"a file such as my_reward.py, or a shipped one: {', '.join(rewards.names())}",
            )


def sampling_stages_share_their_workers(config: RunConfig) -> Iterator[Problem]:
    """Reward processes and rollout workers start once: all stages that sample use the same ones."""
    sampling = [(index, stage) for index, stage in enumerate(config.stages) if stage.has_rollouts]
    if not sampling:
        return
    first = sampling[0][1]
    for index, stage in sampling[1:]:
        if stage.rewards != first.rewards:
            yield Problem(
                ("stages", index, "rewards"),
                f"stages `{first.name}` and `{stage.name}` have different rewards",
                needed="one `rewards` at the top level, or two runs",
            )
        if stage.rollout.workers != first.rollout.workers:
            yield Problem(
                ("stages", index, "rollout", "workers"),
                f"stages `{first.name}` and `{stage.name}` have different numbers of rollout workers",
                found=f"{first.rollout.workers} and {stage.rollout.workers}",
                needed="one `rollout.workers` at the top level, or two runs",
            )


def evaluations_are_scored(config: RunConfig) -> Iterator[Problem]:
    """Held-out problems that a recipe names are judged by the run's rewards, or by an environment."""
    named = ".".join(map(str, next((path for path, _ in configured_sets(config)), ())))
    if named and not is_judged(config) and next(rollouts_are_rewarded(config), None) is None:
        yield Problem(
            ("stages", len(config.stages) - 1, "rewards"),
            "there are problems to evaluate on, but nothing scores the answers",
            found=f"{named} without rewards",
            needed="`rewards: NAME`, such as exact_match, at the top level or in the stages that sample",
        )


def reward_names_are_unique(config: RunConfig) -> Iterator[Problem]:
    """Each reward function has a metric of its own, and so has what an environment gives."""
    for index, stage in enumerate(config.stages):
        if stage.environment is not None and "environment" in map(reward_name, stage.rewards):
            yield Problem(
                ("stages", index, "rewards"),
                "a reward function has the name of what the environment gives",
                found="environment",
                remedy="give it another `name`",
            )
        counts = Counter(reward_name(reward) for reward in stage.rewards)
        for name, count in counts.items():
            if count > 1:
                yield Problem(
                    ("stages", index, "rewards"),
                    f"{count} reward functions share the metric name `{name}`",
                    remedy="give each a `name`",
                )


def algorithms_are_valid(config: RunConfig) -> Iterator[Problem]:
    """The algorithm is a row of the table whose parts fit together."""
    for index, stage in enumerate(config.stages):
        path: KeyPath = ("stages", index, "algorithm")
        if "base" not in stage.algorithm:
            yield Problem(
                path, "the algorithm has no `base`", found=stage.algorithm, remedy="see `rlpost algorithms`"
            )
            continue
        try:
            stage_objective(stage)
        except CompositionError as error:
            yield Problem(path, str(error), found=stage.algorithm)


def groups_have_two_samples(config: RunConfig) -> Iterator[Problem]:
    """An advantage relative to a group needs something to compare with."""
    for index, stage, objective in _valid_objectives(config):
        samples = stage.train.samples_per_prompt
        if stage.has_rollouts and samples < 2 and objective.needs_group:
            yield Problem(
                ("stages", index, "train", "samples_per_prompt"),
                f"`{stage.algorithm['base']}` compares the samples of a prompt with each other",
                found=f"{samples} sample per prompt",
                needed="at least 2",
            )
        for k in (getattr(term.advantage, "k", 1) for term in objective.terms):
            if stage.has_rollouts and samples < k:
                yield Problem(
                    ("stages", index, "train", "samples_per_prompt"),
                    f"`{stage.algorithm['base']}` trains the best of {k} samples, and a prompt has fewer",
                    found=samples,
                    needed=f"at least {k}",
                )


def signals_are_there(config: RunConfig) -> Iterator[Problem]:
    """Every signal that a part of the algorithm reads is one that a run computes."""
    for index, _, objective in _valid_objectives(config):
        for kind, asked, known in (
            ("token signal", objective.signals - critic_rules.value_signals(objective), TOKEN_SIGNALS),
            ("sequence signal", objective.sequence_signals, SEQUENCE_SIGNALS),
        ):
            if unknown := sorted(asked - known):
                yield Problem(
                    ("stages", index, "algorithm"),
                    f"a part of the algorithm reads a {kind} that no run computes",
                    found=", ".join(unknown),
                    needed=f"some of {', '.join(sorted(known))}",
                )


def more_processes_need_ray(config: RunConfig) -> Iterator[Problem]:
    """`inline` is one process: one rollout worker, one learner rank."""
    if config.cluster.mode == "ray":
        return
    if config.cluster.learner_ranks > 1:
        yield Problem(
            ("cluster", "learner_ranks"),
            "more than one learner rank needs Ray",
            found=f"{config.cluster.learner_ranks} learner_ranks with mode: inline",
            needed="cluster.mode: ray",
        )
    for index, stage in enumerate(config.stages):
        if stage.rollout.workers > 1:
            yield Problem(
                ("stages", index, "rollout", "workers"),
                "more than one rollout worker needs Ray",
                found=f"{stage.rollout.workers} workers with cluster.mode: inline",
                needed="cluster.mode: ray",
            )


def _of_objectives(rule: ObjectiveRule) -> Rule:
    """A rule that reads the stages' objectives, as one on the configuration."""

    def on_configuration(config: RunConfig) -> Iterator[Problem]:
        return rule(_valid_objectives(config))

    on_configuration.__doc__ = rule.__doc__
    return on_configuration


RULES: tuple[Rule, ...] = (
    stage_names_are_unique_words,
    prompts_have_one_source,
    data_rules.evaluations_take_no_broken_row,
    data_rules.further_sets_have_plain_names,
    data_rules.tools_come_from_one_place,
    data_rules.long_demonstrations_have_a_limit,
    data_rules.a_prefill_begins_what_is_sampled,
    size_rules.updates_divide_samples,
    size_rules.every_rank_has_a_sequence,
    size_rules.a_sequence_fits_a_microbatch,
    size_rules.the_engine_reads_the_longest_sequence,
    rollouts_are_rewarded,
    sampling_stages_share_their_workers,
    engine_rules.sampling_stages_share_their_engine,
    engine_rules.vllm_options_are_read,
    engine_rules.vllm_samples_at_the_temperature,
    engine_rules.the_tiny_model_fits_vllm,
    pivot_rules.pivots_are_for_a_stage,
    pivot_rules.pivots_are_chosen_between_steps,
    pivot_rules.the_error_pattern_is_one,
    guidance_rules.guidance_is_for_a_stage,
    guidance_rules.guidance_has_solutions,
    guidance_rules.guided_rows_are_complete,
    evaluations_are_scored,
    reward_names_are_unique,
    algorithms_are_valid,
    groups_have_two_samples,
    _of_objectives(source_rules.algorithms_fit_their_source),
    _of_objectives(source_rules.pairs_are_compared),
    _of_objectives(source_rules.coefficients_follow_samples),
    _of_objectives(source_rules.ratios_are_of_samples),
    source_rules.pairs_are_demonstrated,
    signals_are_there,
    source_rules.demonstrations_are_there,
    source_rules.mixed_batches_have_one_temperature,
    _of_objectives(schedule_rules.stale_samples_are_corrected),
    _of_objectives(critic_rules.a_critic_is_read),
    _of_objectives(critic_rules.critic_options_are_read),
    _of_objectives(critic_rules.the_policy_learns_too),
    _of_objectives(teacher_rules.a_teacher_is_there),
    _of_objectives(teacher_rules.a_teacher_is_read),
    schedule_rules.staleness_is_of_rollouts,
    schedule_rules.shared_accelerators_take_turns,
    more_processes_need_ray,
    transport_rules.weights_travel_between_processes,
    transport_rules.a_broadcast_is_between_accelerators,
    learner_rules.zero_options_are_read,
    learner_rules.what_is_offloaded_is_divided,
    learner_rules.adapters_can_be_trained,
    size_rules.the_tiny_model_is_well_formed,
    environment_rules.environments_speak_through_a_template,
    environment_rules.a_worker_outlasts_an_environment,
)


def reward_name(reward: RewardConfig) -> str:
    """The name of a reward's metric: its `name`, its file's, or that of its function in a module."""
    place, _, function = reward.function.rpartition(":")
    is_file = not place or place.endswith(".py")
    return reward.name or (Path(place or function).stem if is_file else function)


def _data_sections(config: RunConfig) -> Iterator[tuple[KeyPath, DataConfig]]:
    for index, stage in enumerate(config.stages):
        yield ("stages", index, "data"), stage.data
    if config.guidance is not None and config.guidance.data is not None:
        yield ("guidance", "data"), config.guidance.data
    yield from configured_sets(config)


def stage_objective(stage: StageConfig) -> Objective:
    """The objective that a stage trains.

    Raises:
        CompositionError: the stage's `algorithm` is not valid, or a file that it names holds no such part.
    """
    load_parts(stage.algorithm)
    return build_objective(stage.algorithm, max_response_tokens=sampled_tokens(stage))


def _valid_objectives(config: RunConfig) -> Iterator[tuple[int, StageConfig, Objective]]:
    for index, stage in enumerate(config.stages):
        try:
            objective = stage_objective(stage)
        except CompositionError:
            continue  # `algorithms_are_valid` has said so
        yield index, stage, objective
