"""The body of `rlpost guide`: ask, find what is hard, walk the grid, write, report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlpost.benchmarking.profiling import refuse_failures, sampling_record, start_profiler
from rlpost.config.dependent import prompts_of_file, training_data
from rlpost.config.rules.guidance_rules import guidance_data, guidance_stage
from rlpost.config.schema import DataConfig, GuidanceConfig, RunConfig, StageConfig
from rlpost.data import Prompt, PromptSet, load_prompts
from rlpost.data.templates import PromptEncoder
from rlpost.errors import DataError, UserError
from rlpost.evaluation.generations import write_text
from rlpost.evaluation.profiles import Profile
from rlpost.guidance.dataset import (
    check_rows,
    check_written,
    columns,
    write_left_out,
    write_pairs,
    write_problems,
)
from rlpost.guidance.guided import Guide, problems_of
from rlpost.guidance.outcome import LEFT_OUT, Outcome, as_json, outcome_of
from rlpost.guidance.page import guidance_page
from rlpost.guidance.tables import lines, point_table
from rlpost.guidance.walk import FIRST, Fate, ask_unguided, beginnings_of, fate, walk
from rlpost.models import load_tokenizer, max_positions
from rlpost.rollout.task import sampling_settings

if TYPE_CHECKING:
    from rich.console import Console

TRAIN, HARD, LEFT = "train.jsonl", "hard.jsonl", "left_out.jsonl"
PROFILES, SUMMARY, REPORT = "profiles", "guidance.json", "report.html"


def make_guidance(config: RunConfig, output: Path | None = None, console: Console | None = None) -> Path:
    """Find the problems that a recipe's policy never solves, and beginnings of solutions that help.

    Writes into `output`: profiles/ (as they come; another call goes on from there), train.jsonl (every hard
    problem with and without guidance), hard.jsonl (the same without), left_out.jsonl, guidance.json and
    report.html.

    Args:
        output: None means `guidance-NAME` under the recipe's `output`.
        console: where to print; the standard output when None.

    Returns:
        the directory.

    Raises:
        UserError: the recipe has no section `guidance`, or the directory holds something else.
        ConfigError: the chat template does not show the model what it is told.
        DataError: the problems are broken or have no solutions, or nothing can be guided; when that comes out
            at the end, the report is written.
        RewardError: the verifier does not give gold answers 1.0.
        ScoringError: too many responses failed to score; the report is written.
    """
    if console is None:
        from rich.console import Console

        console = Console()
    stage = guidance_stage(config)
    if config.guidance is None or stage is None:
        raise UserError(
            "the recipe has no section `guidance`",
            needed="guidance: {data: {path: FILE.jsonl, demonstration_column: solution}}, with hard problems "
            "and their solutions",
        )
    directory = output or Path(config.output) / f"guidance-{config.name}"
    data = training_data(guidance_data(config.guidance, stage))
    work = _Work(config, config.guidance, stage, data, directory, console)
    work.load()
    work.ask()
    work.finish()
    return directory


@dataclass
class _Work:
    """One call of the command."""

    config: RunConfig
    settings: GuidanceConfig
    stage: StageConfig
    data: DataConfig
    directory: Path
    console: Console

    def load(self) -> None:
        """The problems that have solutions, as the policy is asked them."""
        if self.config.cluster.threads is not None:
            torch.set_num_threads(self.config.cluster.threads)
        self.tokenizer = load_tokenizer(self.config.model)
        plain = self.data.model_copy(update={"demonstration_column": None, "rejected_column": None})
        self.prompts = load_prompts(plain, self.tokenizer, seed=self.config.seed)
        for remark in self.prompts.remarks:
            self._say(remark)
        check_rows(self.prompts, self.settings, self.data)
        self.guide = Guide.of(self.settings, self.data, self.tokenizer)
        self.problems, self.without = problems_of(
            self.prompts, self.data, PromptEncoder.of(self.data, self.tokenizer)
        )
        if not self.problems:
            raise DataError(
                "no problem has a solution",
                where=f"data.demonstration_column = {self.data.demonstration_column}",
                found=f"columns {', '.join(sorted(self.prompts[0].columns))}",
                needed="a column with a text, or with a single message of the assistant",
            )
        self.guide.check(self.problems)
        self._say(
            f"{len(self.problems):,} problems are tried with up to {self.settings.samples} responses each"
            + (f"; left out without a solution: {len(self.without):,}" if self.without else "")
        )

    def ask(self) -> None:
        """The policy's responses without guidance, and to the hard problems with more and more of it."""
        settings, sampling = self.settings, sampling_settings(self.stage.rollout)
        known = {p.id for p in self.problems}
        asked = [prompt for prompt in self.prompts if prompt.id in known]
        folder = self.directory / PROFILES
        with start_profiler(
            self.config,
            self.stage,
            self.data,
            self._only(asked),
            self.tokenizer,
            self.directory,
            {"sampling": self._sampled(), "guidance": settings.model_dump(mode="json")},
            self._say,
        ) as profiler:
            self.checksum = profiler.checksum
            folder.mkdir(parents=True, exist_ok=True)
            self.profiles = ask_unguided(profiler, self.problems, settings, sampling, folder)
            self.fates = {id: self._fate(profile) for id, profile in self.profiles.items()}
            hard = [problem for problem in self.problems if self.fates[problem.id] == "hard"]
            self._say(f"{len(hard):,} of {len(self.problems):,} problems are hard")
            beginnings = beginnings_of(hard, self.guide, profiler.scorer, self._most_tokens())
            self.choices = walk(profiler, hard, beginnings, self.guide, sampling, folder, self._say)

    def finish(self) -> None:
        """Everything that is written and said at the end."""
        outcome = outcome_of(
            len(self.prompts), self.without, self.fates, self.profiles, self.choices, self.settings
        )
        provenance = self._provenance()
        self._write(outcome, provenance)
        if outcome.choices:
            self.console.print(point_table(outcome))
        for line in (*lines(outcome), *(f"warning: {text}" for text in outcome.warnings)):
            self._say(line)
        self._say(f"report  {self.directory / REPORT}")
        self._refuse(outcome)
        self._check_written(outcome)
        train, hard = self._section(TRAIN), self._section(HARD, without=("variant_column", "prefill_column"))
        self._say(
            f"{len(outcome.guided):,} problems to train on, each with and without guidance; they are judged "
            f"without. In the recipe:\n  data: {train}\n  evaluation: {{data: {hard}}}"
        )

    def _only(self, prompts: Sequence[Prompt]) -> PromptSet:
        """The prompt set with these prompts alone."""
        return replace(self.prompts, prompts=tuple(prompts))

    def _most_tokens(self) -> int:
        """Of a guided prompt: what is configured, and leaves the model room for a whole response."""
        rollout = self.stage.rollout
        limits = [max_positions(self.config.model)]
        if rollout.engine == "vllm":
            limits.append(rollout.vllm.max_model_len)
        configured = self.settings.max_prompt_tokens or self.stage.data.max_prompt_tokens
        known = (limit - rollout.max_response_tokens for limit in limits if limit is not None)
        return min([configured, *known])

    def _fate(self, profile: Profile) -> Fate:
        return fate(profile, self.settings.success, self.config.scoring.max_failure_share)

    def _write(self, outcome: Outcome, provenance: Mapping[str, Any]) -> None:
        directory, guided = self.directory, outcome.guided
        write_pairs(directory / TRAIN, guided, self.profiles, self.guide)
        write_problems(directory / HARD, [choice.problem for choice in guided], self.profiles, self.guide)
        others = [choice for choice in outcome.choices if choice.chosen is None]
        write_left_out(directory / LEFT, others, self.profiles, self.guide)
        remarks = self.prompts.remarks
        summary = as_json(outcome, provenance, remarks)
        write_text(directory / SUMMARY, json.dumps(summary, indent=2, allow_nan=False) + "\n")
        page = guidance_page(self.config.name, outcome, self.profiles, provenance, remarks)
        write_text(directory / REPORT, page)

    def _refuse(self, outcome: Outcome) -> None:
        rewards = [reward for profile in self.profiles.values() for reward in profile.rewards]
        share = self.config.scoring.max_failure_share
        refuse_failures(rewards, share, self.directory / PROFILES / FIRST)
        fates = ", ".join(f"{count:,} {name}" for name, count in outcome.fates.items())
        if not outcome.choices:
            raise DataError(
                "no problem is hard",
                where=self.directory / REPORT,
                found=fates,
                needed=f"problems that none of {self.settings.samples} responses solves",
                remedy="train on these as they are, without guidance; or bring harder ones",
            )
        if not outcome.guided:
            why = "; ".join(f"{count:,}: {LEFT_OUT[name]}" for name, count in outcome.left_out.items())
            raise DataError(
                "no hard problem can be guided",
                where=self.directory / LEFT,
                found=why,
                needed="a beginning of a solution that fits and does not hold the answer",
                remedy="see guidance.parts, guidance.leaks and guidance.max_prompt_tokens",
            )

    def _check_written(self, outcome: Outcome) -> None:
        path = str(self.directory / TRAIN)
        data = prompts_of_file(self.stage.data, path, columns(self.settings, self.data))
        check_written(load_prompts(data, self.tokenizer), outcome.guided, self.guide, self.directory / TRAIN)

    def _section(self, name: str, without: Sequence[str] = ()) -> str:
        """The recipe's `data` for one of the files: what differs from the defaults."""
        data = prompts_of_file(self.stage.data, str(self.directory / name), columns(self.settings, self.data))
        keys = ["path", *columns(self.settings, self.data), "template", "max_prompt_tokens"]
        shown = {key: getattr(data, key) for key in keys if key not in without}
        defaults = {key: DataConfig.model_fields[key].default for key in shown}
        listed = (f"{key}: {_yaml(value)}" for key, value in shown.items() if value != defaults[key])
        return f"{{{', '.join(listed)}}}"

    def _sampled(self) -> dict[str, Any]:
        return sampling_record(sampling_settings(self.stage.rollout), self.settings.samples, self.config.seed)

    def _provenance(self) -> dict[str, Any]:
        model = self.config.model
        return {
            "policy": {"init": model.init, "revision": model.revision, "weights": self.checksum},
            "verifier": [reward.model_dump(mode="json") for reward in self.stage.rewards],
            **self._sampled(),
            "guidance": self.settings.model_dump(mode="json"),
        }

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _yaml(value: object) -> str:
    return "null" if value is None else str(value)
