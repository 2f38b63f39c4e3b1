"""One model server: ask, retry, keep to the deadline."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from rlpost.endpoint.failures import GivenUpError, exhausted, opening_error, read_failure
from rlpost.endpoint.models import ServedModel, choose_model, read_models
from rlpost.endpoint.replies import Reply, read_reply
from rlpost.endpoint.settings import EndpointSettings
from rlpost.endpoint.waits import next_wait
from rlpost.versions import require

if TYPE_CHECKING:
    from openai import AsyncOpenAI

CONNECT_S = 10.0
OPEN_RETRIES, OPEN_DEADLINE_S = 2, 30.0
"""Of the first contact: who starts a command is waiting, and a server that is not there is soon told."""


class Endpoint:
    """A server, asked from one event loop; at most `concurrency` requests are under way.

    Attributes:
        retries: attempts that failed and were followed by another, since it was made.
        unanswered: requests given up in a row, without any answer by the server among them.

    Raises:
        UserError: the package openai is missing, or the API key cannot be one.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        require("openai")
        self.settings = settings
        self.retries = 0
        self.unanswered = 0
        self._key = settings.key()
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._client: AsyncOpenAI | None = None

    @staticmethod
    def warm_up() -> None:
        """Pay for imports and certificates now.

        Raises:
            UserError: the package openai is missing.
        """
        require("openai")
        import openai  # noqa: F401

        _certificates()

    async def open(self, patient: bool = False) -> ServedModel:
        """Ask the server for its models; the one that the settings mean.

        Args:
            patient: retry as for any other request, because the server has been there before.

        Raises:
            UserError: nothing answers at this URL, or something else does; the key is refused; the server
                does not have the model.
        """

        async def ask() -> Any:
            return _json(await self._connected().models.with_raw_response.list())

        settings = self.settings
        if not patient:
            settings = replace(
                settings,
                retries=min(OPEN_RETRIES, settings.retries),
                deadline_s=min(OPEN_DEADLINE_S, settings.deadline_s),
            )
        try:
            models = await self._until(ask, lambda value, _: read_models(value), settings)
        except GivenUpError as given_up:
            raise opening_error(given_up.failure, self.settings) from None
        return choose_model(models, self.settings)

    async def complete(self, model: str, prompt: str | list[int], body: Mapping[str, Any]) -> Reply:
        """Continue a prompt, by /completions.

        Args:
            body: further fields of the request, as the server takes them.

        Raises:
            EndpointError: no usable answer to this request, after all retries.
            UserError: the server answers, and no request of this kind can succeed.
        """

        async def ask() -> Any:
            create = self._connected().completions.with_raw_response.create
            return _json(await create(model=model, prompt=prompt, extra_body=dict(body)))

        return await self._ask(ask)

    async def chat(self, model: str, messages: list[dict[str, str]], body: Mapping[str, Any]) -> Reply:
        """Answer messages, by /chat/completions; arguments and errors as in `complete`."""

        async def ask() -> Any:
            create = self._connected().chat.completions.with_raw_response.create
            return _json(await create(model=model, messages=messages, extra_body=dict(body)))

        return await self._ask(ask)

    async def close(self) -> None:
        """Give back the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _ask(self, ask: Callable[[], Awaitable[Any]]) -> Reply:
        async with self._slots:
            try:
                reply = await self._until(ask, read_reply, self.settings)
            except GivenUpError as given_up:
                self.unanswered = 0 if given_up.failure.answered else self.unanswered + 1
                raise exhausted(given_up, self.settings) from None
        self.unanswered = 0
        return reply

    async def _until(
        self, ask: Callable[[], Awaitable[Any]], read: Callable[[Any, int], Any], patience: EndpointSettings
    ) -> Any:
        """What `read` makes of the first usable answer, given that and the attempts before it.

        Raises:
            GivenUpError: there was none; with the last failure.
        """
        clock = asyncio.get_running_loop().time
        end = clock() + patience.deadline_s
        attempt = 0
        while True:
            try:
                async with asyncio.timeout_at(min(end, clock() + patience.timeout_s)):
                    value = await ask()
                return read(value, attempt)
            except Exception as error:
                failure = read_failure(error, self._key)
            wait = next_wait(attempt, patience.backoff_s, failure.retry_after_s)
            late = failure.passing and clock() + wait >= end
            if not failure.passing or late or attempt == patience.retries:
                raise GivenUpError(failure, attempts=attempt + 1, late=late)
            attempt += 1
            self.retries += 1
            await asyncio.sleep(wait)

    def _connected(self) -> AsyncOpenAI:
        if self._client is None:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

            # The library wants a key; servers without keys read none. Its own retries know no total deadline.
            self._client = AsyncOpenAI(
                api_key=self._key or "none",
                base_url=self.settings.address,
                timeout=Timeout(self.settings.timeout_s, connect=min(CONNECT_S, self.settings.timeout_s)),
                max_retries=0,
                http_client=DefaultAsyncHttpxClient(verify=_certificates()),
            )
        return self._client


@cache
def _certificates() -> ssl.SSLContext:
    """Read once: it takes longer than all the rest of making a client."""
    import httpx2

    return httpx2.create_ssl_context()


def _json(response: Any) -> Any:
    """The body of a raw response.

    Raises:
        ValueError: it is no JSON.
    """
    text = response.http_response.text
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError(f"no JSON but {text[:200]!r}") from None
