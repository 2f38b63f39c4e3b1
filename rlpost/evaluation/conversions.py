"""Rows of published data sets as rows of the benchmarks' local files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any


def question_as_problem(row: Mapping[str, Any]) -> dict[str, Any]:
    """The column `question` under the name `problem`; all others as they are."""
    return {("problem" if name == "question" else name): value for name, value in row.items()}


def olympiadbench(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """A text-only English open-ended problem; any other kind of row is left out.

    A problem with several answers has them all in `answer`, separated by commas.
    """
    kind = {"language": "English", "modality": "Text-only", "question_type": "Open-ended"}
    if any(row.get(name) not in (None, value) for name, value in kind.items()):
        return None
    answers = row["final_answer"]
    parts = [answers] if isinstance(answers, str) else list(answers)
    context = f"{row['context'].strip()}\n\n" if row.get("context") else ""
    return {
        "id": row["id"],
        "problem": context + row["question"],
        "answer": ", ".join(part.strip().strip("$") for part in parts),
        "answer_type": row.get("answer_type"),
        "unit": row.get("unit"),
        "error": row.get("error"),
        "subfield": row.get("subfield"),
    }


def gpqa(row: Mapping[str, Any]) -> dict[str, Any]:
    """A question with its four options in an order that follows from its text alone.

    The data set always lists the right option first; a fixed order keeps prompts equal from run to run.
    """
    question = row["Question"].strip()
    right = row["Correct Answer"].strip()
    choices = [right, *(row[f"Incorrect Answer {i}"].strip() for i in (1, 2, 3))]
    order = sorted(range(4), key=lambda i: hashlib.sha256(f"{question}\n{choices[i]}".encode()).digest())
    shuffled = [choices[i] for i in order]
    options = "\n".join(f"({letter}) {text}" for letter, text in zip(ascii_uppercase, shuffled, strict=False))
    return {
        "id": row.get("Record ID") or hashlib.sha256(question.encode()).hexdigest()[:16],
        "problem": f"{question}\n\n{options}",
        "answer": ascii_uppercase[order.index(0)],
        "choices": shuffled,
        "domain": row.get("High-level domain"),
    }
