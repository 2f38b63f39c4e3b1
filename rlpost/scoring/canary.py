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


def run_canary(executor: Executor, prompts: Sequence[Prompt], max_failure_share: float = 0.0) -> list[str]:
    """Each reward on the gold responses of `prompts` and on garbage, or on its own `selfcheck`.

    Args:
        max_failure_share: of these responses may fail to score; a wrong score is always an error.

    Returns:
        for people: of each reward that failed within that share, how often, and where first.

    Raises:
        RewardError: a gold response did not score 1.0, garbage did, or the function failed too often.
    """
    may_fail = max_failure_share * len(prompts)
    remarks = []
    for index, description in enumerate(executor.descriptions):
        failed: list[str] = []
        if description.uses_answer or description.has_gold:
            failed = _check_gold(executor, index, description, prompts, may_fail)
        elif description.has_selfcheck:
            _check_cases(executor, index, description)
        garbage = executor.run([Task("score", index, p.text, GARBAGE, p.columns) for p in prompts])
        failures = sum(_score(reply) is None for reply in garbage)
        for prompt, reply in zip(prompts, garbage, strict=True):
            if _score(reply) is not None or failures > may_fail:
                _check_garbage(description, prompt, reply)
            if _score(reply) is None:
                failed.append(f"{_row(prompt)}: the response {GARBAGE!r} got {_outcome(reply)}")
        if failed:
            remarks.append(
                f"canary: reward {description.name!r} failed on {len(failed)} of the responses tried, "
                f"as scoring.max_failure_share allows; the first is {failed[0]}"
            )
    return remarks


def _check_gold(
    executor: Executor,
    index: int,
    description: RewardDescription,
    prompts: Sequence[Prompt],
    may_fail: float,
) -> list[str]:
    """The gold responses that failed to score, or to be written: at most `may_fail`, in words."""
    golds = executor.run([Task("gold", index, columns=p.columns) for p in prompts])
    unwritten = [(p, _outcome(r)) for p, r in zip(prompts, golds, strict=True) if not _has_gold(r)]
    if len(unwritten) > may_fail:
        prompt, found = unwritten[0]
        raise RewardError(
            f"reward {description.name!r}: its `gold_completion` failed", where=_row(prompt), found=found
        )
    known = [
        (p, str(r.value["gold"])) for p, r in zip(prompts, golds, strict=True) if r.value and _has_gold(r)
    ]
    tasks = [Task("score", index, p.text, text, p.columns) for p, text in known]
    tried = [(p, text, r) for (p, text), r in zip(known, executor.run(tasks), strict=True)]
    failures = [t for t in tried if _score(t[2]) is None]
    wrong = [t for t in tried if _score(t[2]) is not None and abs(_score(t[2]) - 1) > TOLERANCE]
    if len(unwritten) + len(failures) > may_fail:
        wrong = failures + wrong
    if not wrong:
        words = [f"{_row(p)}: its gold response got {found}" for p, found in unwritten]
        return words + [f"{_row(p)}: the response {text!r:.300} got {_outcome(r)}" for p, text, r in failures]
    prompt, text, reply = wrong[0]
    problem = "fails on a gold answer" if _score(reply) is None else "does not give a gold answer 1.0"
    raise RewardError(
        f"reward {description.name!r} {problem} ({len(wrong)} of {len(tried)} rows tried)",
        where=f"{_row(prompt)}; reward at {description.source}",
        found=f"the response {text!r:.300} got {_outcome(reply)}",
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


def _has_gold(reply: Reply) -> bool:
    return reply.value is not None and "gold" in reply.value


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
    place = f" ({prompt.place})" if prompt.place else ""
    return f"row {prompt.id!r}{place}" + ("" if answer is None else f" with answer {str(answer)[-200:]!r}")
