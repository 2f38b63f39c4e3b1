"""The body of `rlpost eval`: load a model, run benchmarks, print one table."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlpost.config.schema import DataConfig, ModelConfig, ScoringConfig
from rlpost.errors import ScoringError, UserError
from rlpost.evaluation.benchmark import Benchmark
from rlpost.evaluation.choice import choose, data_folder, point_out_problems
from rlpost.evaluation.compare import compare_results
from rlpost.evaluation.evaluate import EvaluationSettings, evaluate
from rlpost.evaluation.manifest import checksum_of_weights, evaluation_manifest
from rlpost.evaluation.results import EvaluationResult, finished_evaluations
from rlpost.evaluation.tables import comparison_table, results_table
from rlpost.rollout.engine import Engine, SamplingSettings

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rlpost.scoring import Scorer

BATCHES_OF_SLOTS = 4
"""Responses between two writes, in units of slots: more keep the slots fuller, fewer lose less."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to sample, with what its results must say about it."""

    config: ModelConfig
    tokenizer: PreTrainedTokenizerBase
    engine: Engine
    device: str
    checksum: str
    max_positions: int | None


def evaluate_model(
    model: str,
    benchmarks: Sequence[str] = (),
    *,
    data_dir: Path | str | None = None,
    data: Path | str | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    reward: str | None = None,
    samples: int = 1,
    temperature: float | None = None,
    top_p: float = 1.0,
    max_response_tokens: int = 1024,
    limit: int | None = None,
    output: Path | str | None = None,
    against: Path | str | None = None,
    seed: int = 0,
    slots: int = 64,
    scoring: ScoringConfig | None = None,
) -> Path:
    """Evaluate a model on named benchmarks, on a file of one's own, or on both.

    Args:
        model: a Hugging Face id, a local model directory, or `tiny`.
        benchmarks: names from `BENCHMARKS`, and paths of benchmarks' YAML files.
        data_dir: the folder that holds the benchmarks' files. None: "data", and what is missing there is
            fetched from the Hugging Face hub.
        data: a JSONL or parquet file of one's own; needs `reward`.
        prompt_column: of `data`; "prompt" when None.
        answer_column: of `data`; "answer" when None.
        reward: the verifier for `data`, or instead of the benchmarks' own.
        samples: responses per problem.
        temperature: None means greedy for one sample and 1.0 for several.
        limit: only the first problems of each file.
        output: where results go; "runs/eval-MODEL" when None. What an interrupted call left
            there is continued.
        against: results of an earlier evaluation, to be compared with problem by problem.
        slots: responses decoded at the same time.

    Returns:
        The output directory, with one folder per benchmark.

    Raises:
        UserError: an argument, the model, a file or the reward is wrong.
        ScoringError: too many samples failed to score; all files are written all the same.
    """
    from rich.console import Console

    chosen = choose(benchmarks, data, prompt_column, answer_column, reward)
    settings = _settings(samples, temperature, top_p, max_response_tokens, limit, seed, slots)
    target = Path(output) if output is not None else Path("runs") / f"eval-{Path(model).name}"
    scoring, console, results = scoring or ScoringConfig(), Console(), {}
    folder = data_folder(chosen, data_dir, console)
    if against is not None:  # what is missing is found before the model is loaded
        finished_evaluations(Path(against))
    with ExitStack() as stack:
        scorers = _start_scorers(chosen, scoring, stack)  # a bad reward, too
        loaded = load(model, seed, slots)
        budget = _prompt_budget(loaded.max_positions, max_response_tokens)
        for benchmark in chosen:
            config = benchmark.data_config(folder, limit=limit, max_prompt_tokens=budget)
            results[benchmark.name] = _run(
                loaded, benchmark, config, scorers[benchmark.name], scoring, settings, target, console
            )
    console.print(results_table(model, results))
    for benchmark in chosen:
        point_out_problems(benchmark, results[benchmark.name], limit, console)
    console.print(f"results, generations and settings: {target}")
    _refuse_incomplete(results, settings)
    if against is not None:
        console.print(comparison_table(compare_results(target, against)))
    return target


def load(model: str, seed: int, slots: int) -> LoadedModel:
    """Model, tokenizer and torch engine, on a GPU where there is one."""
    import torch

    from rlpost.models import load_model, load_tokenizer
    from rlpost.rollout import TorchEngine
    from rlpost.weights.bundle import checksum

    config = ModelConfig(init=model, dtype="bfloat16" if torch.cuda.is_available() else "float32")
    tokenizer = load_tokenizer(config)
    network: PreTrainedModel = load_model(config, seed)
    identity = checksum_of_weights({name: checksum(t) for name, t in network.state_dict().items()})
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    if torch.cuda.is_available():
        network.to("cuda")
    positions = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    engine = TorchEngine(network, tokenizer, slots=slots)
    return LoadedModel(config, tokenizer, engine, device, identity, positions)


def _start_scorers(
    benchmarks: Sequence[Benchmark], scoring: ScoringConfig, stack: ExitStack
) -> dict[str, Scorer]:
    """The scorer of each benchmark; benchmarks with the same verifier share one."""
    from rlpost.scoring import Scorer

    started: dict[str, Scorer] = {}
    for reward in (benchmark.reward_config() for benchmark in benchmarks):
        key = reward.model_dump_json()
        if key not in started:
            started[key] = stack.enter_context(Scorer([reward], scoring))
    return {b.name: started[b.reward_config().model_dump_json()] for b in benchmarks}


def _run(
    loaded: LoadedModel,
    benchmark: Benchmark,
    config: DataConfig,
    scorer: Scorer,
    scoring: ScoringConfig,
    settings: EvaluationSettings,
    target: Path,
    console: Console,
) -> EvaluationResult:
    from rich.progress import Progress

    from rlpost.data import load_prompts

    prompts = load_prompts(config, loaded.tokenizer)
    scorer.check_columns(prompts[0].columns)
    if scoring.canary:
        scorer.canary(prompts.prompts)
    manifest = evaluation_manifest(
        model=loaded.config,
        version=loaded.engine.version,
        tokenizer=loaded.tokenizer,
        data=config,
        prompts=prompts,
        rewards=[benchmark.reward_config()],
        scoring=scoring,
        engine=f"torch on {loaded.device}",
        weights_checksum=loaded.checksum,
        benchmark=benchmark.record(),
    )
    with Progress(console=console) as progress:
        bar = progress.add_task(f"{benchmark.name}, {len(prompts):,} problems", total=len(prompts))
        return evaluate(
            prompts.prompts,
            loaded.engine.generate,
            scorer,
            settings,
            target / benchmark.name,
            manifest,
            on_batch=lambda done: progress.update(bar, completed=done),
        )


def _settings(
    samples: int,
    temperature: float | None,
    top_p: float,
    max_response_tokens: int,
    limit: int | None,
    seed: int,
    slots: int,
) -> EvaluationSettings:
    for flag, value, fine, needed in (
        ("--samples", samples, samples >= 1, "at least 1"),
        ("--temperature", temperature, temperature is None or temperature >= 0, "0 (greedy) or more"),
        ("--top-p", top_p, 0 < top_p <= 1, "above 0, at most 1"),
        ("--max-response-tokens", max_response_tokens, max_response_tokens >= 1, "at least 1"),
        ("--limit", limit, limit is None or limit >= 1, "at least 1"),
        ("--slots", slots, slots >= 1, "at least 1"),
    ):
        if not fine:
            raise UserError(f"{flag} is out of range", found=value, needed=needed)
    if temperature is None:
        temperature = 0.0 if samples == 1 else 1.0
    if temperature == 0 and samples > 1:
        raise UserError(
            "greedy sampling gives the same response every time",
            found=f"--samples {samples} with --temperature 0",
            needed="a temperature above 0, or one sample",
        )
    sampling = SamplingSettings(temperature=temperature, top_p=top_p, max_tokens=max_response_tokens)
    return EvaluationSettings(
        samples_per_problem=samples, sampling=sampling, seed=seed, batch_size=BATCHES_OF_SLOTS * slots
    )


def _prompt_budget(max_positions: int | None, max_response_tokens: int) -> int:
    """Tokens that the model's context leaves for a prompt."""
    if max_positions is None:
        return 1_000_000  # a model without a position limit
    if max_response_tokens >= max_positions:
        raise UserError(
            "the model's context has no room for a prompt",
            where="--max-response-tokens",
            found=max_response_tokens,
            needed=f"below {max_positions}, the model's number of positions",
        )
    return max_positions - max_response_tokens


def _refuse_incomplete(results: dict[str, EvaluationResult], settings: EvaluationSettings) -> None:
    for name, result in results.items():
        if not result.complete:
            raise ScoringError(
                f"too many samples of {name} failed to score; its accuracy is only a lower bound",
                where=result.output,
                found=f"{result.failed_share:.1%} of samples",
                needed=f"at most {settings.max_failure_share:.1%}",
                remedy="read the notes in generations.jsonl; mend the verifier, then run `rlpost regrade`",
            )
