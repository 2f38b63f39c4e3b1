"""The canary: known answers through the real worker processes, before any time is spent on training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlpost.data.trajectory import Prompt
from rlpost.errors import RewardError
from rlpost.scoring.protocol import RewardDescription
from rlpost.scoring.task import Reply, Task

if TYPE_CHECKING:
    from rlpost.scoring.executor import Executor

GARBAGE = "qwxz qwxz"
TOLERANCE = 1e-6


def run_canary(executor: Executor, prompts: Sequence[Prompt]) -> None:
    """Each reward on the gold responses of `prompts` and on garbage, or on its own `selfcheck`.

    Raises:
        RewardError: a gold response did not score 1.0, garbage did, or the function failed.
    """
    for index, description in enumerate(executor.descriptions):
        if description.uses_answer or description.has_gold:
            _check_gold(executor, index, description, prompts)
        elif description.has_selfcheck:
            _check_cases(executor, index, description)
        garbage = executor.run([Task("score", index, p.text, GARBAGE, p.columns) for p in prompts])
        for prompt, reply in zip(prompts, garbage, strict=True):
            _check_garbage(description, prompt, reply)


def _check_gold(
    executor: Executor, index: int, description: RewardDescription, prompts: Sequence[Prompt]
) -> None:
    golds = executor.run([Task("gold", index, columns=p.columns) for p in prompts])
    for prompt, reply in zip(prompts, golds, strict=True):
        if reply.value is None or "gold" not in reply.value:
            raise RewardError(
                f"reward {description.name!r}: its `gold_completion` failed",
                where=_row(prompt),
                found=_outcome(reply),
            )
    texts = [str(reply.value["gold"]) for reply in golds if reply.value]
    tasks = [Task("score", index, p.text, text, p.columns) for p, text in zip(prompts, texts, strict=True)]
    replies = executor.run(tasks)
    wrong = [
        k for k, reply in enumerate(replies) if _score(reply) is None or abs(_score(reply) - 1) > TOLERANCE
    ]
    if not wrong:
        return
    first = wrong[0]
    failed = _score(replies[first]) is None
    problem = "fails on a gold answer" if failed else "does not give a gold answer 1.0"
    raise RewardError(
        f"reward {description.name!r} {problem} ({len(wrong)} of {len(prompts)} rows tried)",
        where=f"{_row(prompts[first])}; reward at {description.source}",
        found=f"the response {texts[first]!r:.300} got {_outcome(replies[first])}",
        needed="1.0, or no training signal can be trusted",
        remedy="correct the row or the function; if a right response looks different, add "
        "`gold_completion(answer)` to its file; scoring.canary=false skips this check",
    )


def _check_cases(executor: Executor, index: int, description: RewardDescription) -> None:
    [reply] = executor.run([Task("selfcheck", index)])
    if reply.value is None or "cases" not in reply.value:
        raise RewardError(f"reward {description.name!r}: its `selfcheck` failed", found=_outcome(reply))
    cases = [(dict(arguments), expected) for arguments, expected in reply.value["cases"]]
    tasks = [
        Task("case", index, str(arguments.pop("prompt", "")), str(arguments.pop("completion", "")), arguments)
        for arguments, _ in cases
    ]
    for task, (_, expected), answer in zip(tasks, cases, executor.run(tasks), strict=True):
        score = _score(answer)
        if score is None or abs(score - expected) > TOLERANCE:
            raise RewardError(
                f"reward {description.name!r} contradicts its own `selfcheck`",
                where=description.source,
                found=f"the response {task.completion!r:.300} got {_outcome(answer)}",
                needed=expected,
            )


def _check_garbage(description: RewardDescription, prompt: Prompt, reply: Reply) -> None:
    score = _score(reply)
    if score is None:
        raise RewardError(
            f"reward {description.name!r} fails on a response without an answer",
            where=f"{_row(prompt)}; reward at {description.source}",
            found=f"the response {GARBAGE!r} got {_outcome(reply)}",
            needed="a score for whatever a model may write",
        )
    if score >= 1 and (description.uses_answer or description.has_gold):
        raise RewardError(
            f"reward {description.name!r} gives garbage {score:g}",
            where=f"{_row(prompt)}; reward at {description.source}",
            found=f"the response {GARBAGE!r} got {_outcome(reply)}",
            needed="less than 1.0",
            remedy="correct the function; scoring.canary=false skips this check",
        )


def _score(reply: Reply) -> float | None:
    return None if reply.value is None else reply.value.get("score")


def _outcome(reply: Reply) -> str:
    if reply.value is None:
        return f"{reply.failed}: {reply.note}"
    score, outcome, note = (reply.value.get(k) for k in ("score", "outcome", "note"))
    head = outcome if score is None else f"{score:g} ({outcome})"
    return f"{head}: {note}" if note else str(head)


def _row(prompt: Prompt) -> str:
    answer = prompt.columns.get("answer")
    return f"row {prompt.id!r}" + ("" if answer is None else f" with answer {str(answer)[-200:]!r}")
