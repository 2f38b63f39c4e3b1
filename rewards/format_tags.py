"""Format: the response is made of certain tags, each once and in order, and of nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Structure = Mapping[str, Any]
THINK_ANSWER: Structure = {"think": None, "answer": None}


def reward(completion: str, structure: Structure = THINK_ANSWER) -> float:
    """1.0 for each tag exactly once, in order and at its place, no empty one, no text between; otherwise 0.0.

    Args:
        completion: the model's response.
        structure: the tags in their order, each with the tags inside it, or with None when it holds text. By
            default the response is `<think>...</think>` followed by `<answer>...</answer>`.

    >>> reward("<think>2 + 2</think> <answer>4</answer>")
    1.0
    >>> reward("<call><name>f</name><args>1</args></call>", {"call": {"name": None, "args": None}})
    1.0
    """
    if not structure:
        raise ValueError("the structure names no tag")
    names = "|".join(map(re.escape, tags(structure)))
    parts = re.split(rf"(</?(?:{names})>)", completion)
    if parts[1::2] != list(layout(structure)):
        return 0.0
    texts = parts[::2]
    filled = [bool(text.strip()) for text in texts]
    return float(filled == [False, *holds_text(parts[1::2])])


def tags(structure: Structure) -> Iterator[str]:
    """The names of all tags."""
    for name, inside in structure.items():
        yield name
        yield from tags(inside or {})


def layout(structure: Structure) -> Iterator[str]:
    """The tags as a right response has them, one after the other."""
    for name, inside in structure.items():
        yield f"<{name}>"
        yield from layout(inside or {})
        yield f"</{name}>"


def holds_text(found: list[str]) -> list[bool]:
    """For each tag, whether text follows: between an opening tag and its own end."""
    following = [*found[1:], ""]
    return [tag[1] != "/" and after == f"</{tag[1:]}" for tag, after in zip(found, following, strict=True)]


def selfcheck() -> list[tuple[dict[str, Any], float]]:
    """Cases: arguments and the score that they must get."""
    right = ["<think>2 + 2</think><answer>4</answer>", "\n<think>\na < b\n</think>\n<answer>\n4\n</answer>\n"]
    wrong = [
        "<answer>4</answer><think>2 + 2</think>",
        "<think>2 + 2</think><answer>4",
        "<think>2 + 2</think><answer>4</answer><answer>5</answer>",
        "<think>2 + 2</think><answer></answer>",
        "<think> </think><answer>4</answer>",
        "Sure! <think>2 + 2</think><answer>4</answer>",
        "<think>2 + 2</think> so <answer>4</answer>",
        "<think>2 + 2</think><answer>4</answer> done",
        "<think><think>2 + 2</think></think><answer>4</answer>",
        "<think>2 + 2<answer>4</answer></think>",
        "<think>2 + 2</answer><answer>4</think>",
        "<THINK>2 + 2</THINK><answer>4</answer>",
        "<answer>4</answer>",
        "",
    ]
    call = {"structure": {"think": None, "call": {"name": None, "args": None}}}
    return [
        *(({"completion": text}, 1.0) for text in right),
        *(({"completion": text}, 0.0) for text in wrong),
        ({"completion": "<think>a</think><call><name>f</name> <args>1</args></call>", **call}, 1.0),
        ({"completion": "<think>a</think><call><args>1</args><name>f</name></call>", **call}, 0.0),
        ({"completion": "<think>a</think><call></call><name>f</name><args>1</args>", **call}, 0.0),
        ({"completion": "<think>a</think><call>so <name>f</name><args>1</args></call>", **call}, 0.0),
    ]
