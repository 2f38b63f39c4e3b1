"""A sample request as an OpenAI-compatible server takes it, and the sample that its reply stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlpost.data.trajectory import FinishReason
from rlpost.endpoint import Reply
from rlpost.errors import ConfigError, RolloutError
from rlpost.rollout.engine import FailedSample, Sample, SampleRequest

OWN_FIELDS = ("vllm", "sglang", "llamacpp")
"""Servers that take fields beside OpenAI's and leave out those they do not know."""
SEEDS = {"llamacpp": 2**32 - 1}
"""How many seeds there are, where not all of 64 bits; the last of llama.cpp's means a random one."""


def request_body(
    request: SampleRequest, server: str, *, chat: bool, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields beside model and prompt.

    Args:
        server: who serves the model, as it says of itself.
        extra: further fields; None in it takes one of ours away.

    Raises:
        ConfigError: the server is not known to take a setting.
    """
    settings = request.settings
    body: dict[str, Any] = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_tokens": settings.max_tokens,
        "seed": request.seed % SEEDS.get(server, 2**63),
        "n": 1,
        "stream": False,
    }
    if settings.stop:
        body["stop"] = list(settings.stop)
    if server in OWN_FIELDS:
        body["return_token_ids"] = True
        # -1 and 0 both mean all, but not to all of them; the default may come from the model's own settings.
        body["top_k"] = settings.top_k or (0 if server == "llamacpp" else -1)
        body["min_p"], body["repetition_penalty"] = 0.0, 1.0
        if not chat:
            body["add_special_tokens"] = False  # the text holds them already
    elif settings.top_k and "top_k" not in extra:
        raise ConfigError(
            "this server is not known to take top_k",
            found=f"top_k {settings.top_k}, a server of {server or 'unknown make'}",
            needed=f"top_k 0, or a server of {', '.join(OWN_FIELDS)}",
            remedy="if it does take it, name the field among the further ones of each request",
        )
    return {name: value for name, value in {**body, **extra}.items() if value is not None}


def read_sample(request: SampleRequest, reply: Reply, *, chat: bool) -> Sample | FailedSample:
    """The response, or what is in its place.

    Raises:
        RolloutError: the server read another prompt than the one that was sent.
    """
    if not chat:
        _check_prompt(request, reply)
    if reply.finish_reason not in ("stop", "length"):
        return FailedSample(
            request.id, "error", f"the server ended the response with finish_reason {reply.finish_reason!r}"
        )
    seen = reply.token_ids
    unseen = None
    if seen is None:
        unseen = -1 if reply.completion_tokens is None else reply.completion_tokens
    sampled = unseen if seen is None else len(seen)
    if reply.finish_reason == "length" and 0 <= sampled < request.settings.max_tokens:
        # Servers lower the limit of a response that does not fit, and do not say so.
        return FailedSample(
            request.id,
            "error",
            f"the server cut the response after {sampled} of at most {request.settings.max_tokens} tokens: "
            "prompt and response do not fit into its model's positions",
        )
    return Sample(
        id=request.id,
        token_ids=seen or (),
        logprobs=(),
        versions=(),
        finish_reason=_finish_reason(request, reply),
        text=reply.text,
        unseen_tokens=unseen,
    )


def _finish_reason(request: SampleRequest, reply: Reply) -> FinishReason:
    if reply.finish_reason == "length":
        return "length"
    if reply.stop is not None or (request.settings.stop and not reply.says_stop):
        return "stop"
    return "eos"


def _check_prompt(request: SampleRequest, reply: Reply) -> None:
    """A server that tokenises the text otherwise, or puts a second BOS in front, would go unnoticed."""
    sent, read = request.prompt_token_ids, reply.prompt_token_ids
    if not sent:
        return
    differs = sent != read if read is not None else reply.prompt_tokens not in (None, len(sent))
    if not differs:
        return
    count = len(read) if read is not None else reply.prompt_tokens
    at = next((i for i, (a, b) in enumerate(zip(sent, read or (), strict=False)) if a != b), None)
    raise RolloutError(
        "the server reads another prompt than the one that was sent",
        where=f"request {request.id!r}" + ("" if at is None else f", token {at}, counted from 0"),
        found=f"{count} tokens" + ("" if at is None or read is None else f"; there, {read[at]}"),
        needed=f"{len(sent)} tokens" + ("" if at is None else f"; there, {sent[at]}"),
        remedy="use the tokenizer of the server's model; where the server puts a BOS in front of every text, "
        "send token ids (token_prompts=True)",
    )
