"""One evaluation: sample every problem, score every sample, keep everything.

Used by `rlpost eval` and by the training loop alike.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpost.data.trajectory import Prompt
from rlpost.errors import DataError, RolloutError
from rlpost.evaluation.generations import (
    GENERATIONS,
    Generation,
    append_generations,
    check_columns,
    restore_generations,
    write_text,
)
from rlpost.evaluation.manifest import FORMAT, claim
from rlpost.evaluation.results import EvaluationResult, summarise, write_results
from rlpost.rollout.engine import Sample, SampleRequest, SamplingSettings

if TYPE_CHECKING:
    from rlpost.scoring import Scorer

TIMING = "timing.json"


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How much is sampled, and how.

    Attributes:
        samples_per_problem: responses to each problem.
        sampling: temperature, top-p, top-k, token limit, stop strings.
        seed: with the prompt's id and the sample's index, decides each response.
        max_failure_share: above this share of samples that failed to score, the result is
            marked incomplete.
        batch_size: responses between two writes to disk; never changes a result.
    """

    samples_per_problem: int = 1
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    seed: int = 0
    max_failure_share: float = 0.05
    batch_size: int = 512

    def __post_init__(self) -> None:
        if self.samples_per_problem < 1 or self.batch_size < 1:
            raise ValueError("samples_per_problem and batch_size must be at least 1")


def evaluate(
    prompts: Sequence[Prompt],
    generate: Callable[[list[SampleRequest]], list[Sample]],
    scorer: Scorer,
    settings: EvaluationSettings,
    output: Path,
    manifest: Mapping[str, Any],
    on_batch: Callable[[int], None] | None = None,
) -> EvaluationResult:
    """Sample and score every problem; what an interrupted call finished is not done again.

    Writes into `output`: manifest.json (at once), generations.jsonl (batch by batch),
    problems.jsonl, results.json and timing.json (at the end).

    Args:
        prompts: the problems, in the order of the data.
        generate: one response per request, in order.
        scorer: has `score_items`.
        settings: how much is sampled, and how.
        output: a directory; made when missing.
        manifest: what produces the numbers, from `rlpost.evaluation.evaluation_manifest`.
        on_batch: is told how many problems are done, at the start and after each batch.

    Raises:
        UserError: `output` holds another evaluation; the message names what differs.
        DataError: there are no problems, two share an id, or a row cannot be stored.
        RolloutError: the responses are not those asked for, or of another policy version
            than `manifest["model"]["version"]`.
    """
    _check_prompts(prompts)
    started = time.perf_counter()
    full_manifest = {"format": FORMAT, **manifest, "settings": settings_record(settings)}
    claim(output, full_manifest)
    n, path = settings.samples_per_problem, output / GENERATIONS
    seeds = [[sample_seed(settings.seed, prompt.id, i) for i in range(n)] for prompt in prompts]
    generations = restore_generations(path, prompts, seeds)
    reused, seconds = len(generations), {"generate_s": 0.0, "score_s": 0.0}
    report = on_batch or (lambda done: None)
    report(reused // n)
    for batch in _batches(range(reused // n, len(prompts)), max(1, settings.batch_size // n)):
        fresh = _run_batch(batch, prompts, seeds, generate, scorer, settings, manifest, seconds)
        append_generations(path, fresh)
        generations += fresh
        report(len(generations) // n)
    result, table = summarise(generations, n, settings.seed, settings.max_failure_share, output)
    write_results(result, table, full_manifest)
    tokens = sum(len(g.token_ids) for g in generations[reused:])
    timing = {
        **seconds,
        "total_s": time.perf_counter() - started,
        "generated_samples": len(generations) - reused,
        "reused_samples": reused,
        "generated_tokens": tokens,
    }
    write_text(output / TIMING, json.dumps(timing, indent=2) + "\n")
    return result


def sample_seed(seed: int, prompt_id: str, sample: int) -> int:
    """A seed in [0, 2^63) for one response; independent of the order and number of problems."""
    digest = hashlib.blake2b(f"evaluation/{seed}/{sample}/{prompt_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def settings_record(settings: EvaluationSettings) -> dict[str, Any]:
    """The settings that decide a result, as JSON."""
    record = asdict(settings)
    del record["batch_size"]
    return json.loads(json.dumps(record))


def _run_batch(
    batch: Sequence[int],
    prompts: Sequence[Prompt],
    seeds: Sequence[Sequence[int]],
    generate: Callable[[list[SampleRequest]], list[Sample]],
    scorer: Scorer,
    settings: EvaluationSettings,
    manifest: Mapping[str, Any],
    seconds: dict[str, float],
) -> list[Generation]:
    from rlpost.scoring import ScoreItem

    wanted = [(p, i) for p in batch for i in range(settings.samples_per_problem)]
    requests = [
        SampleRequest(f"{p:06d}-{i:03d}", prompts[p].token_ids, seeds[p][i], settings.sampling)
        for p, i in wanted
    ]
    start = time.perf_counter()
    samples = generate(requests)
    seconds["generate_s"] += time.perf_counter() - start
    _check_samples(requests, samples, manifest)
    start = time.perf_counter()
    rewards = scorer.score_items(
        [
            ScoreItem(prompt=prompts[p].text, completion=sample.text, columns=prompts[p].columns)
            for (p, _), sample in zip(wanted, samples, strict=True)
        ]
    )
    seconds["score_s"] += time.perf_counter() - start
    return [
        Generation(
            problem=p,
            prompt_id=prompts[p].id,
            sample=i,
            seed=seeds[p][i],
            prompt=prompts[p].text,
            token_ids=sample.token_ids,
            text=sample.text,
            finish_reason=sample.finish_reason,
            reward=reward,
            columns=prompts[p].columns,
        )
        for (p, i), sample, reward in zip(wanted, samples, rewards, strict=True)
    ]


def _check_prompts(prompts: Sequence[Prompt]) -> None:
    if not prompts:
        raise DataError("there is no problem to evaluate", needed="at least one")
    seen: dict[str, int] = {}
    for i, prompt in enumerate(prompts):
        if prompt.id in seen:
            raise DataError(
                "two problems have the same id",
                where=f"problems {seen[prompt.id]} and {i}, counted from 0",
                found=prompt.id,
                remedy="remove the duplicate: counted twice, it would narrow the interval for nothing",
            )
        seen[prompt.id] = i
        check_columns(prompt.id, prompt.columns)


def _check_samples(
    requests: Sequence[SampleRequest], samples: Sequence[Sample], manifest: Mapping[str, Any]
) -> None:
    if [r.id for r in requests] != [s.id for s in samples]:
        raise RolloutError(
            "the engine did not answer every request in order",
            found=f"{len(samples)} responses",
            needed=f"{len(requests)}, in the order of the requests",
        )
    version = manifest.get("model", {}).get("version")
    found = {v for s in samples for v in s.versions}
    if version is not None and found - {version}:
        raise RolloutError(
            "responses were sampled by another policy version than the one under evaluation",
            found=f"versions {sorted(found)}",
            needed=f"version {version}",
        )


def _batches(indices: range, size: int) -> Iterator[range]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
