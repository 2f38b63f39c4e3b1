"""What went wrong with an attempt: whether another one may do better, and how to say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlpost.endpoint.settings import EndpointSettings
from rlpost.endpoint.waits import retry_after
from rlpost.errors import EndpointError, EndpointTimeoutError, RlpostError, UserError

PASSING_STATUSES = (408, 409, 429)
TEXT_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt.

    Attributes:
        text: what happened, for people; never holds the API key.
        passing: the next attempt may do better.
        answered: the server answered, and this one it refused.
        status: the HTTP status; None when there was no response.
        code: the server's word for the error, such as "insufficient_quota".
        timeout: the attempt took too long.
        garbled: there was a response of status 200 that is none of this interface.
        retry_after_s: what the server asks to wait for.
    """

    text: str
    passing: bool
    answered: bool = False
    status: int | None = None
    code: str = ""
    timeout: bool = False
    garbled: bool = False
    retry_after_s: float | None = None


class GivenUpError(Exception):
    """A request was given up after a last failure; `late`: because the next attempt was past the deadline."""

    def __init__(self, failure: Failure, *, attempts: int, late: bool) -> None:
        super().__init__(failure.text)
        self.failure, self.attempts, self.late = failure, attempts, late


def read_failure(error: Exception, key: str | None) -> Failure:
    """The failure that an attempt's exception stands for; an unforeseen exception is raised again."""
    import openai

    if isinstance(error, openai.APIStatusError):
        status, code = error.status_code, str(error.code or "")
        passing = (status in PASSING_STATUSES or status >= 500) and code != "insufficient_quota"
        return Failure(
            _without(f"status {status}: {_message(error)}", key),
            passing,
            answered=not passing,
            status=status,
            code=code,
            retry_after_s=retry_after(error.response.headers) if passing else None,
        )
    if isinstance(error, (openai.APITimeoutError, TimeoutError)):
        return Failure("no answer in time", passing=True, timeout=True)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        return Failure(_without(f"{type(cause).__name__}: {cause}", key), passing=True)
    if isinstance(error, ValueError):
        return Failure(_without(str(error), key), passing=True, garbled=True)
    raise error


def opening_error(failure: Failure, settings: EndpointSettings) -> RlpostError:
    """The error that ends the first contact with a server."""
    refused = _refused_for_all(failure, settings)
    if refused is not None:
        return refused
    if failure.status is not None and failure.passing:
        what, remedy = "the model server is not ready", "wait until it has loaded its model, or read its log"
    elif failure.status is None and not failure.garbled:
        what, remedy = "no model server answers", "start the server, or correct the URL"
    else:
        what, remedy = "what answers there is no OpenAI-compatible server", "the URL usually ends in /v1"
    return UserError(what, where=f"{settings.address}/models", found=failure.text, remedy=remedy)


def exhausted(given_up: GivenUpError, settings: EndpointSettings) -> RlpostError:
    """The error of a request that was given up."""
    failure = given_up.failure
    refused = _refused_for_all(failure, settings)
    if refused is not None:
        return refused
    if failure.status in (404, 405):
        return UserError(
            "the model server has no such route, or no longer this model",
            where=settings.address,
            found=failure.text,
            remedy="correct the URL; a server without /completions has /chat/completions",
        )
    found = f"{failure.text} (attempt {given_up.attempts} of at most {settings.retries + 1})"
    if given_up.late or failure.timeout:
        asked = failure.retry_after_s
        return EndpointTimeoutError(
            "the model server did not answer the request in time",
            where=settings.address,
            found=found if asked is None else f"{found}; it asks to wait {asked:g} s",
            needed=f"an answer within {settings.timeout_s:g} s an attempt, {settings.deadline_s:g} s in all",
        )
    if failure.passing:
        return EndpointError("the model server gave no usable answer", where=settings.address, found=found)
    return EndpointError("the model server refuses the request", where=settings.address, found=failure.text)


def _refused_for_all(failure: Failure, settings: EndpointSettings) -> UserError | None:
    """The error for a refusal that no other request would escape."""
    if failure.status == 401:
        unset = settings.key() is None
        variable = settings.key_variable
        return UserError(
            "the model server refuses the API key",
            where=settings.address,
            found=f"the environment variable {variable} is {'not set' if unset else 'set'}",
            remedy=f"put the key of this server into {variable}, or name another variable",
        )
    if failure.status == 402 or failure.code == "insufficient_quota":
        return UserError(
            "the model server's account has no credit left", where=settings.address, found=failure.text
        )
    return None


def _message(error: Any) -> str:
    """The server's own words, from whatever form its JSON has."""
    body = error.body
    for name in ("message", "detail", "error"):
        if isinstance(body, dict) and body.get(name):
            body = body[name]
    return " ".join(str(body or error.response.text).split())[:TEXT_CHARACTERS] or "no explanation"


def _without(text: str, key: str | None) -> str:
    return text.replace(key, "[key]") if key else text
