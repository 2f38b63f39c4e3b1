"""Rules on sizes: what must divide what, and what must fit where. Every message shows its arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rlpost.config.dependent import rows_per_prompt
from rlpost.config.held_out import held_out_sets
from rlpost.config.problems import Problem
from rlpost.config.schema import RunConfig, StageConfig


def updates_divide_samples(config: RunConfig) -> Iterator[Problem]:
    """One step's sequences are divided evenly into its updates."""
    for index, stage in enumerate(config.stages):
        prompts, samples, updates = _sizes(stage)
        sequences = prompts * samples
        if rows_per_prompt(stage) > samples:
            yield from _prompts_divide(index, stage)
        elif sequences % updates:
            multiple = updates // math.gcd(updates, prompts)
            near_samples = " or ".join(str(n) for n in _multiples_near(samples, multiple))
            near_updates = " or ".join(str(n) for n in _divisors_near(sequences, updates))
            yield Problem(
                ("stages", index, "train", "updates_per_step"),
                "a step's samples do not divide into its updates",
                found=f"{prompts} prompts_per_step x {samples} samples_per_prompt = {sequences} sequences, "
                f"{sequences} / {updates} updates_per_step = {sequences / updates:g}",
                needed="a whole number of sequences per update",
                remedy=f"set samples_per_prompt to {near_samples}, or updates_per_step to {near_updates}",
            )


def every_rank_has_a_sequence(config: RunConfig) -> Iterator[Problem]:
    """An update has at least one sequence for each learner rank."""
    ranks = config.cluster.learner_ranks
    for index, stage in enumerate(config.stages):
        # A prompt may be without its demonstration, so these do not count.
        prompts, samples, updates = _sizes(stage)
        if prompts * samples % updates == 0 and prompts * samples // updates < ranks:
            yield Problem(
                ("stages", index, "train", "prompts_per_step"),
                "an update has fewer sequences than learner ranks",
                found=f"{prompts} prompts x {samples} samples / {updates} updates = "
                f"{prompts * samples // updates} sequences, {ranks} ranks",
                remedy=f"set prompts_per_step to {math.ceil(ranks * updates / samples)} or more, "
                f"or cluster.learner_ranks to {prompts * samples // updates} or less",
            )


def a_sequence_fits_a_microbatch(config: RunConfig) -> Iterator[Problem]:
    """The longest prompt with the longest response fits into one forward pass."""
    for index, stage in enumerate(config.stages):
        prompt, response = stage.data.max_prompt_tokens, stage.rollout.max_response_tokens
        key = "rollout.max_response_tokens"
        if stage.environment is not None and stage.environment.max_episode_tokens is not None:
            response, key = stage.environment.max_episode_tokens, "environment.max_episode_tokens"
        if stage.train.tokens_per_microbatch < prompt + response:
            yield Problem(
                ("stages", index, "train", "tokens_per_microbatch"),
                "the longest sequence does not fit into a micro-batch",
                found=f"{stage.train.tokens_per_microbatch} tokens_per_microbatch, "
                f"but {prompt} max_prompt_tokens + {response} {key.split('.')[1]} = {prompt + response}",
                needed=f"at least {prompt + response}",
                remedy=f"or make data.max_prompt_tokens or {key} smaller",
            )


def the_engine_reads_the_longest_sequence(config: RunConfig) -> Iterator[Problem]:
    """`rollout.vllm.max_model_len` has room for the longest prompt with the longest response."""
    last = config.stages[-1]
    for index, stage in enumerate(config.stages):
        limit = stage.rollout.vllm.max_model_len
        if stage.rollout.engine != "vllm" or limit is None:
            continue
        asked = [("in training", stage.data.max_prompt_tokens, stage.rollout.max_response_tokens)]
        evaluated = config.evaluation.max_response_tokens or last.rollout.max_response_tokens
        sets = held_out_sets(config).values()
        asked += [("in evaluations", held_out.max_prompt_tokens, evaluated) for held_out in sets]
        when, prompt, response = max(asked, key=lambda lengths: lengths[1] + lengths[2])
        if limit < prompt + response:
            yield Problem(
                ("stages", index, "rollout", "vllm", "max_model_len"),
                "the longest sequence does not fit into the engine",
                found=f"{limit} max_model_len, but {when} {prompt} max_prompt_tokens "
                f"+ {response} max_response_tokens = {prompt + response}",
                needed=f"at least {prompt + response}, or null for all that the model reads",
            )


def the_tiny_model_is_well_formed(config: RunConfig) -> Iterator[Problem]:
    """Heads divide the width into even parts (rotary embeddings pair them); sequences fit."""
    tiny = config.model.tiny
    if config.model.init != "tiny":
        return
    if tiny.hidden_size % (2 * tiny.heads):
        step = 2 * tiny.heads
        yield Problem(
            ("model", "tiny", "hidden_size"),
            "the width does not divide into heads of an even size",
            found=f"{tiny.hidden_size} / {tiny.heads} heads = {tiny.hidden_size / tiny.heads:g}",
            needed=" or ".join(str(n) for n in _multiples_near(tiny.hidden_size, step)),
        )
    for stage in config.stages:
        longest = stage.data.max_prompt_tokens + stage.rollout.max_response_tokens
        if longest > tiny.max_positions:
            yield Problem(
                ("model", "tiny", "max_positions"),
                f"sequences of stage `{stage.name}` may be longer than the tiny model reads",
                found=f"{stage.data.max_prompt_tokens} max_prompt_tokens + "
                f"{stage.rollout.max_response_tokens} max_response_tokens = {longest}, "
                f"but {tiny.max_positions} max_positions",
                needed=f"model.tiny.max_positions of at least {longest}",
            )


def _prompts_divide(index: int, stage: StageConfig) -> Iterator[Problem]:
    """What a batch holds of one prompt belongs to one update."""
    prompts, _, updates = _sizes(stage)
    if prompts % updates:
        near = " or ".join(str(n) for n in _multiples_near(prompts, updates))
        divisors = " or ".join(str(n) for n in _divisors_near(prompts, updates))
        yield Problem(
            ("stages", index, "train", "updates_per_step"),
            "a step's prompts do not divide into its updates",
            found=f"{prompts} prompts_per_step / {updates} updates_per_step = {prompts / updates:g}",
            needed="a whole number of prompts per update, each with all its responses",
            remedy=f"set prompts_per_step to {near}, or updates_per_step to {divisors}",
        )


def _sizes(stage: StageConfig) -> tuple[int, int, int]:
    return stage.train.prompts_per_step, stage.train.samples_per_prompt, stage.train.updates_per_step


def _multiples_near(value: int, step: int) -> list[int]:
    below, above = value // step * step, math.ceil(value / step) * step
    return sorted({n for n in (below, above) if n > 0})


def _divisors_near(whole: int, value: int) -> list[int]:
    below = next(d for d in range(min(value, whole), 0, -1) if whole % d == 0)
    above = next((d for d in range(value, whole + 1) if whole % d == 0), None)
    return sorted({below} | ({above} if above is not None else set()))
