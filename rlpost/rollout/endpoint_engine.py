"""Samples from a model server that speaks OpenAI's HTTP interface."""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from rlpost.endpoint import Endpoint, EndpointSettings
from rlpost.endpoint.background import BackgroundLoop
from rlpost.errors import (
    ConfigError,
    EndpointError,
    EndpointTimeoutError,
    EngineLostError,
    RolloutError,
)
from rlpost.rollout.endpoint_requests import read_sample, request_body
from rlpost.rollout.engine import FailedSample, Sample, SampleRequest, generate_all
from rlpost.rollout.request_checks import check_length, check_settings, refuse_equal_ids

STEP_S = 0.2
OPEN_S = 60.0
LEAST_UNANSWERED = 8
"""So many requests in a row must have been given up before the server counts as lost."""


class EndpointEngine:
    """A `Sampler`: vLLM, SGLang, llama.cpp or a hosted server samples, with weights of its own.

        engine = EndpointEngine("http://localhost:8000/v1")
        samples = engine.generate(requests)         # each a Sample or a FailedSample, in order
        engine.close()

    By default it sends `SampleRequest.prompt`, the text after the chat template, to /completions: the prompt
    is then the same as for an engine of our own, and where the request has `prompt_token_ids` too, the
    server's tokens are compared with them (one by one with vLLM, by their number elsewhere). With
    `token_prompts` it sends the ids instead. With `chat` it sends messages to /chat/completions, the server's
    template applies, and a prompt that is text counts as one message by the user.

    A request that comes to nothing after all retries becomes a `FailedSample` (outcome "timeout" or "error",
    and a note): it stands for RewardResult(None, outcome, note=note) without being scored, and a resumed
    evaluation may ask again. What no other request would escape is raised instead: the key is refused, the
    model is gone, the prompt is read otherwise, or the server is silent (`EngineLostError`).

    A Sample holds `token_ids` where the server gives them (vLLM); otherwise they are empty and `tokens` is
    the server's count. `logprobs` and `versions` are empty: nobody vouches for either. A response that ended
    by itself is "eos", one ended by a stop string "stop"; where a server does not tell them apart and stop
    strings were set, "stop".

    Not thread-safe; any thread may make it. Weights, sleep and probes are no part of it.

    Args:
        url: up to the version; "/v1" is added to an address without a path.
        model: the server's name for it; None takes its only one.
        key_variable: the environment variable with the API key.
        chat: messages instead of text.
        concurrency: requests at the same time; more wait here. `add` may be given any number.
        timeout_s: seconds that one attempt may take.
        deadline_s: seconds that one request may take with all its retries, from when it is first sent.
        retries: further attempts after a failure that may pass.
        backoff_s: the wait before the first of them; it doubles with each.
        token_prompts: send token ids to /completions instead of text.
        body: further fields of each request, such as {"max_completion_tokens": 4096, "max_tokens": None};
            None takes one away.

    Attributes:
        model: the name that requests use.
        url: the address without the route.
        server: who serves it, by the server's own word, such as "vllm"; "" where it does not say.
        max_positions: tokens that prompt and response may have together; None where the server does not say.

    Raises:
        UserError: nothing answers at the URL, the key is refused, the server does not have the model, or the
            package openai is missing.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        key_variable: str = "OPENAI_API_KEY",
        chat: bool = False,
        concurrency: int = 64,
        timeout_s: float = 600.0,
        deadline_s: float = 1800.0,
        retries: int = 8,
        backoff_s: float = 0.5,
        token_prompts: bool = False,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        if chat and token_prompts:
            raise ConfigError("chat messages are not token ids", needed="either chat or token_prompts")
        settings = EndpointSettings(
            url, model, key_variable, concurrency, timeout_s, deadline_s, retries, backoff_s
        )
        self._chat, self._token_prompts, self._body = chat, token_prompts, dict(body or {})
        self._endpoint = Endpoint(settings)
        self._running: dict[str, Future[Sample | FailedSample]] = {}
        self._finished: queue.SimpleQueue[tuple[str, Future[Sample | FailedSample]]] = queue.SimpleQueue()
        self._tokens = 0
        self._loop = BackgroundLoop("endpoint")
        try:
            served = self._loop.call(self._endpoint.open(), OPEN_S)
        except BaseException:
            self.close()
            raise
        self.model, self.server, self.max_positions = served.name, served.server, served.positions
        self.url = settings.address

    @property
    def unfinished(self) -> int:
        return len(self._running)

    @property
    def tokens(self) -> int:
        """Tokens of finished responses, as far as the server gives their number."""
        return self._tokens

    @property
    def retries(self) -> int:
        """Attempts that failed and were followed by another, since the engine was made."""
        return self._endpoint.retries

    def add(self, requests: Sequence[SampleRequest]) -> None:
        """Send the requests, as many at a time as `concurrency` allows.

        Raises:
            ConfigError: a setting is out of range, not known to this server, or prompt and response do not
                fit. None of the requests was sent, as after all these errors.
            RolloutError: an id is in use, or a request has no prompt in the form that is sent.
        """
        refuse_equal_ids(requests, self._running)
        calls = [(request, *self._checked(request)) for request in requests]
        for request, prompt, body in calls:
            future = self._loop.start(self._ask(request, prompt, body))
            self._running[request.id] = future
            future.add_done_callback(lambda done, id=request.id: self._finished.put((id, done)))

    def step(self) -> list[Sample | FailedSample]:
        """What has finished since the last step; waits a fifth of a second for it at most.

        Raises:
            UserError: the server answers, and no request can succeed.
            EngineLostError: the server no longer answers: as many requests in a row as run at the same time
                were given up.
            RolloutError: the server reads other prompts than are sent.
        """
        done: list[Sample | FailedSample] = []
        if not self._running:
            return done
        try:
            finished = [self._finished.get(timeout=STEP_S)]
        except queue.Empty:
            return done
        while not self._finished.empty():
            finished.append(self._finished.get())
        for id, future in finished:
            if self._running.get(id) is future:  # otherwise it was aborted
                sample = future.result()
                del self._running[id]
                self._tokens += (sample.tokens or 0) if isinstance(sample, Sample) else 0
                done.append(sample)
        return done

    def abort(self) -> None:
        """Forget all unfinished requests, and hang up on the server."""
        for future in self._running.values():
            future.cancel()
        self._running.clear()

    def generate(self, requests: Sequence[SampleRequest]) -> list[Sample | FailedSample]:
        """One response, or what is in its place, per request, in order; errors as in `add` and `step`."""
        return generate_all(self, requests)

    def close(self) -> None:
        """Forget everything, and end the thread."""
        self.abort()
        try:
            self._loop.call(self._endpoint.close(), OPEN_S)
        finally:
            self._loop.close()

    def _checked(self, request: SampleRequest) -> tuple[Any, dict[str, Any]]:
        """Prompt and further fields of a request, as the server takes them."""
        check_settings(request)
        check_length(request, self.max_positions)
        prompt: Any = request.prompt_token_ids if self._token_prompts else request.prompt
        form = "token ids" if self._token_prompts else "text or messages" if self._chat else "text"
        if not prompt or (not self._chat and not self._token_prompts and not isinstance(prompt, str)):
            raise RolloutError(
                "the request has no prompt in the form that is sent",
                where=f"request {request.id!r}",
                found="messages" if prompt else "nothing",
                needed=form,
                remedy="messages go to a chat route (chat=True)" if prompt else None,
            )
        if self._token_prompts:
            prompt = list(prompt)
        elif self._chat:
            prompt = (
                [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*map(dict, prompt)]
            )
        return prompt, request_body(request, self.server, chat=self._chat, extra=self._body)

    async def _ask(self, request: SampleRequest, prompt: Any, body: dict[str, Any]) -> Sample | FailedSample:
        route = self._endpoint.chat if self._chat else self._endpoint.complete
        try:
            reply = await route(self.model, prompt, body)
        except EndpointError as error:
            if self._endpoint.unanswered >= max(self._endpoint.settings.concurrency, LEAST_UNANSWERED):
                raise EngineLostError(
                    "the model server no longer answers",
                    where=self.url,
                    found=f"{self._endpoint.unanswered} requests in a row without an answer; the last one: "
                    f"{error.what}: {error.details['found']}",
                    remedy="look after the server, then run the same command again to go on",
                ) from error
            outcome = "timeout" if isinstance(error, EndpointTimeoutError) else "error"
            return FailedSample(request.id, outcome, str(error))
        return read_sample(request, reply, chat=self._chat)
