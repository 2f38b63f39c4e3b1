"""What a server answered, read from the JSON of either completions API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer.

    Attributes:
        text: what the model wrote, without special tokens. What a server with a parser for reasoning keeps
            apart stands before the rest, between `<think>` and `</think>`.
        finish_reason: the server's word: "stop", "length", "content_filter" and others.
        stop: the stop string that ended it. None: something else did, or the server does not say.
        says_stop: whether the server says what ended it.
        token_ids: the sampled tokens, where the server gives them; otherwise None.
        prompt_token_ids: what it read, where the server gives that; otherwise None.
        prompt_tokens: how many tokens it read; None where the server does not say.
        completion_tokens: how many tokens it sampled; None where the server does not say.
        retries: attempts that failed before this one.
    """

    text: str
    finish_reason: str
    stop: str | None
    says_stop: bool
    token_ids: tuple[int, ...] | None
    prompt_token_ids: tuple[int, ...] | None
    prompt_tokens: int | None
    completion_tokens: int | None
    retries: int = 0


def read_reply(value: Any, retries: int = 0) -> Reply:
    """The only choice of a completion or chat completion.

    Raises:
        ValueError: the JSON is not that; the message says what is missing.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"no JSON object but {value!r:.200}")
    choices = value.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], Mapping):
        raise ValueError(f"no list of one choice in {value!r:.300}")
    choice = choices[0]
    reason = choice.get("finish_reason")
    if not isinstance(reason, str):
        raise ValueError(f"no finish_reason in {choice!r:.300}")
    # vLLM's and SGLang's names for what ended the response: a string, an id, or null for EOS.
    stop_key = next((key for key in ("stop_reason", "matched_stop") if key in choice), None)
    stop = choice[stop_key] if stop_key else None
    usage = value.get("usage") or {}
    return Reply(
        text=_text(choice),
        finish_reason=reason,
        stop=stop if isinstance(stop, str) else None,
        says_stop=stop_key is not None,
        token_ids=_ids(choice.get("token_ids")),
        prompt_token_ids=_ids(choice.get("prompt_token_ids", value.get("prompt_token_ids"))),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        retries=retries,
    )


def _text(choice: Mapping[str, Any]) -> str:
    if "text" in choice:
        if not isinstance(choice["text"], str):
            raise ValueError(f"no text in {choice!r:.300}")
        return choice["text"]
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise ValueError(f"neither text nor message in {choice!r:.300}")
    content = message.get("content") or ""
    if not isinstance(content, str):
        raise ValueError(f"the message's content is no text: {content!r:.300}")
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    return f"<think>{reasoning}</think>{content}" if isinstance(reasoning, str) else content


def _ids(value: Any) -> tuple[int, ...] | None:
    return tuple(value) if isinstance(value, list) and all(type(i) is int for i in value) else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
