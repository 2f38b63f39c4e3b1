"""The body of `rlpost pivots`: cut, profile with the frozen policy, select, write, report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlpost.benchmarking.profiling import refuse_failures, sampling_record, start_profiler
from rlpost.config.dependent import training_data
from rlpost.config.rules.pivot_rules import pivot_stage
from rlpost.config.schema import DataConfig, PivotsConfig, RunConfig, StageConfig
from rlpost.data import PromptSet, load_prompts
from rlpost.errors import DataError, UserError
from rlpost.evaluation.generations import write_text
from rlpost.evaluation.profiles import Profile
from rlpost.models import load_tokenizer
from rlpost.pivots.cut import Cut, cut
from rlpost.pivots.dataset import COLUMNS, data_of, write_candidates, write_turns
from rlpost.pivots.page import pivots_page
from rlpost.pivots.selection import Selection, select
from rlpost.pivots.tables import as_json, left_out, percent, source_table
from rlpost.pivots.trajectories import read_dialogues
from rlpost.training.reprofiling import CANDIDATES, VALIDATION, action_sampling

if TYPE_CHECKING:
    from rich.console import Console

PROFILES, TRAIN, RANDOM = "profiles.jsonl", "train.jsonl", "random.jsonl"
SUMMARY, REPORT = "pivots.json", "report.html"


def make_pivots(config: RunConfig, output: Path | None = None, console: Console | None = None) -> Path:
    """Find the pivots of a recipe's trajectories for the policy that the recipe starts from.

    Writes into `output`: candidates.jsonl, profiles.jsonl (as profiles come; another call goes on from
    there), train.jsonl, validation.jsonl and random.jsonl for `data.path`, pivots.json and report.html.

    Args:
        output: None means `pivots-NAME` under the recipe's `output`.
        console: where to print; the standard output when None.

    Returns:
        the directory.

    Raises:
        UserError: the recipe has no pivots, or the directory holds those of something else.
        DataError: the trajectories are broken, or no turn is a pivot; in that case the report is written.
        RewardError: the verifier does not give the expert's own actions 1.0.
        ScoringError: too many responses failed to score; the report is written.
    """
    if console is None:
        from rich.console import Console

        console = Console()
    work = _prepare(config, output, console)
    prompts = work.load()
    profiles = work.profile(prompts)
    work.finish(prompts, profiles)
    return work.directory


def _prepare(config: RunConfig, output: Path | None, console: Console) -> _Work:
    stage = pivot_stage(config)
    if config.pivots is None or stage is None:
        raise UserError(
            "the recipe has no section `pivots`",
            needed="pivots: {trajectories: FILE.jsonl}, with the experts' dialogues",
        )
    directory = output or Path(config.output) / f"pivots-{config.name}"
    data = training_data(data_of(stage.data, directory / CANDIDATES))
    dialogues = read_dialogues(config.pivots.trajectories, data.max_broken_share or 0.0)
    turns = cut(dialogues.all, config.pivots, config.seed)
    if not turns.candidates:
        raise DataError(
            "there is no turn to try",
            where=", ".join(config.pivots.trajectories),
            found=f"{sum(turns.turns.values())} turns of the model, all left out",
            needed="turns that pivots.turns, parallel_calls and error_turns let through",
        )
    return _Work(config, config.pivots, stage, data, turns, dialogues.remarks, directory, console)


@dataclass
class _Work:
    """One call of the command."""

    config: RunConfig
    settings: PivotsConfig
    stage: StageConfig
    data: DataConfig
    cut: Cut
    remarks: Sequence[str]
    directory: Path
    console: Console

    def load(self) -> PromptSet:
        """The candidates as the prompts that training would make of them."""
        if self.config.cluster.threads is not None:
            torch.set_num_threads(self.config.cluster.threads)
        self.directory.mkdir(parents=True, exist_ok=True)
        write_candidates(self.directory / CANDIDATES, self.cut.candidates)
        self.tokenizer = load_tokenizer(self.config.model)
        prompts = load_prompts(self.data, self.tokenizer, seed=self.config.seed)
        self.remarks = [*self.remarks, *prompts.remarks]
        for remark in self.remarks:
            self._say(remark)
        dialogues, turns = sum(self.cut.dialogues.values()), sum(self.cut.turns.values())
        self._say(
            f"{dialogues:,} dialogues with {turns:,} turns of the model; {len(prompts):,} are tried with "
            f"{self.settings.samples} responses each"
        )
        return prompts

    def profile(self, prompts: PromptSet) -> list[Profile]:
        """The policy's responses to every candidate."""
        sampling = action_sampling(self.settings, self.stage)
        settings = {"sampling": sampling_record(sampling, self.settings.samples, self.config.seed)}
        with start_profiler(
            self.config,
            self.stage,
            self.data,
            prompts,
            self.tokenizer,
            self.directory,
            settings,
            self._say,
        ) as profiler:
            self.checksum = profiler.checksum
            path = self.directory / PROFILES
            return profiler.profile(
                prompts.prompts, sampling, path, samples=self.settings.samples, what="turns"
            )

    def finish(self, prompts: PromptSet, profiles: Sequence[Profile]) -> None:
        """Everything that is written and said at the end."""
        selection = select(self.cut, profiles, self.settings, self.config.seed)
        provenance = self._provenance()
        self._write(selection, provenance)
        self.console.print(source_table(selection))
        for line in (*left_out(selection), *(f"warning: {text}" for text in selection.warnings)):
            self._say(line)
        self._say(
            f"{percent(selection.total.uninformative_share)} of the turns are uninformative: all their "
            "rewards are equal, and a group-relative update would learn nothing from them"
        )
        self._say(f"report  {self.directory / REPORT}")
        self._refuse(profiles, selection)
        self._say(
            f"{len(selection.train):,} pivots to train on, {len(selection.validation):,} held out. In the "
            f"recipe:\n  data: {self._data_section()}"
        )

    def _write(self, selection: Selection, provenance: dict[str, Any]) -> None:
        common = {name: provenance[name] for name in ("policy", "verifier", "seed", "threshold")}
        written = ((TRAIN, selection.train), (VALIDATION, selection.validation), (RANDOM, selection.random))
        for name, turns in written:
            write_turns(self.directory / name, turns, common)
        summary = as_json(selection, provenance, self.remarks)
        write_text(self.directory / SUMMARY, json.dumps(summary, indent=2, allow_nan=False) + "\n")
        page = pivots_page(self.config.name, selection, provenance, self.remarks)
        write_text(self.directory / REPORT, page)

    def _refuse(self, profiles: Sequence[Profile], selection: Selection) -> None:
        rewards = [reward for profile in profiles for reward in profile.rewards]
        refuse_failures(rewards, self.config.scoring.max_failure_share, self.directory / PROFILES)
        if not selection.total.pivots:
            fates = ", ".join(f"{count} {fate}" for fate, count in selection.total.fates.items())
            raise DataError(
                "no turn is a pivot",
                where=self.directory / REPORT,
                found=fates,
                needed="turns at which the policy's responses have mixed rewards, with a mean below "
                f"pivots.threshold = {self.settings.threshold:g}",
                remedy="`never`: look whether the verifier knows the tools; `always` and `easy`: the policy "
                "has learnt these turns already, or pivots.threshold is too low",
            )

    def _provenance(self) -> dict[str, Any]:
        model, sampling = self.config.model, action_sampling(self.settings, self.stage)
        return {
            "policy": {"init": model.init, "revision": model.revision, "weights": self.checksum},
            "verifier": [reward.model_dump(mode="json") for reward in self.stage.rewards],
            "threshold": self.settings.threshold,
            "min_variance": self.settings.min_variance,
            **sampling_record(sampling, self.settings.samples, self.config.seed),
            "trajectories": self.settings.trajectories,
        }

    def _data_section(self) -> str:
        columns = {key: "null" if value is None else value for key, value in COLUMNS.items()}
        listed = ", ".join(f"{key}: {value}" for key, value in columns.items())
        return f"{{path: {self.directory / TRAIN}, {listed}}}"

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
