"""What an engine refuses before it takes requests in."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rlpost.errors import ConfigError, RolloutError
from rlpost.rollout.engine import SampleRequest


def check_requests(
    requests: Sequence[SampleRequest], in_use: Collection[str], *, embeddings: int, positions: int | None
) -> None:
    """Refuse requests that the model cannot serve, or whose responses could not be told apart.

    Args:
        in_use: ids of unfinished requests.
        embeddings: token ids that the model knows.
        positions: the longest sequence that it reads; None without a limit.

    Raises:
        ConfigError: a setting is out of range, or prompt and response do not fit.
        RolloutError: a prompt is empty or holds ids that the model does not know, or an id is in use.
    """
    refuse_equal_ids(requests, in_use)
    for request in requests:
        _check_prompt(request, embeddings)
        check_settings(request)
        check_length(request, positions)


def refuse_equal_ids(requests: Sequence[SampleRequest], in_use: Collection[str]) -> None:
    """Raise RolloutError for requests whose responses could not be told apart."""
    seen: set[str] = set()
    for request in requests:
        if request.id in in_use or request.id in seen:
            raise RolloutError(
                "two requests of the same id cannot run at the same time",
                where=f"request {request.id!r}",
                needed="an id that no unfinished request has",
            )
        seen.add(request.id)


def _check_prompt(request: SampleRequest, embeddings: int) -> None:
    prompt, where = request.prompt_token_ids, f"request {request.id!r}"
    if not prompt:
        raise RolloutError("an empty prompt cannot be sampled from", where=where, needed="at least one token")
    if min(prompt) < 0 or max(prompt) >= embeddings:
        raise RolloutError(
            "the prompt holds a token id that the model does not have",
            where=where,
            found=f"ids from {min(prompt)} to {max(prompt)}",
            needed=f"0 to {embeddings - 1}",
            remedy="tokenise the prompt with the tokenizer that belongs to the model",
        )


def check_length(request: SampleRequest, positions: int | None) -> None:
    """Raise ConfigError unless prompt and response fit into the model's positions, if they are limited."""
    prompt, settings, where = request.prompt_token_ids, request.settings, f"request {request.id!r}"
    if positions is not None and len(prompt) + settings.max_tokens > positions:
        raise ConfigError(
            "prompt and response do not fit into the model's positions",
            where=where,
            found=f"{len(prompt)} prompt tokens + {settings.max_tokens} response tokens "
            f"= {len(prompt) + settings.max_tokens}",
            needed=f"at most {positions} (the model's max_position_embeddings)",
            remedy="lower rollout.max_response_tokens (evaluation.max_response_tokens) or "
            "data.max_prompt_tokens; for a tiny model raise model.tiny.max_positions",
        )


def check_settings(request: SampleRequest) -> None:
    """Raise ConfigError unless every sampling setting is in its range."""
    settings = request.settings
    for name, right, needed in (
        ("temperature", settings.temperature >= 0, "0 (greedy) or more"),
        ("top_p", 0 < settings.top_p <= 1, "above 0, at most 1"),
        ("top_k", settings.top_k >= 0, "0 (all) or more"),
        ("max_tokens", settings.max_tokens >= 1, "at least 1"),
        ("stop", all(settings.stop), "no empty string"),
    ):
        if not right:
            raise ConfigError(
                f"the sampling setting {name} is out of range",
                where=f"request {request.id!r}",
                found=repr(getattr(settings, name)),
                needed=needed,
            )
