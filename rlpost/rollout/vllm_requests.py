"""What runs in a vLLM engine: responses, and probes between them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlpost.rollout.engine import Sample
from rlpost.rollout.vllm_calls import Beat
from rlpost.rollout.vllm_responses import Response
from rlpost.rollout.vllm_transfer import forget_keys_and_values, pause, resume

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.llm_engine import LLMEngine

_STEP_S = 0.02
"""The longest step in which nothing finishes, but for the one token that it is there for at least."""

_PROBE_PRIORITY = -1
"""Before responses, whose priority is 0."""


class VLLMRequests:
    """The requests of one `LLMEngine`, whose outputs nobody else takes.

    Responses have two keys there: the one we give them, which outputs carry, and one of vLLM's own.
    """

    def __init__(self, engine: LLMEngine) -> None:
        self._engine = engine
        self._numbers = itertools.count()
        self._running: dict[str, Response] = {}
        self._own_keys: dict[str, str] = {}
        self._finished: list[Sample] = []
        self._tokens = 0

    @property
    def ids(self) -> set[str]:
        """Of all requests whose samples `step` has not returned."""
        return {r.request.id for r in self._running.values()} | {sample.id for sample in self._finished}

    @property
    def unfinished(self) -> int:
        """The number of `ids`."""
        return len(self._running) + len(self._finished)

    @property
    def tokens(self) -> int:
        """Tokens sampled so far."""
        states = self._engine.output_processor.request_states
        running = (states[own].detokenizer for own in self._own_keys.values() if own in states)
        return self._tokens + sum(output.num_output_tokens() for output in running)

    def add(self, responses: Sequence[Response], beat: Beat) -> None:
        """Put the responses into vLLM's queue."""
        for response in responses:
            key = str(next(self._numbers))
            self._own_keys[key] = self._engine.add_request(key, response.prompt(), response.parameters())
            self._running[key] = response
            beat()

    def step(self, beat: Beat) -> list[Sample]:
        """Take vLLM's outputs for a moment; the responses that have finished since the last call."""
        end = time.monotonic() + _STEP_S
        while self._running and not self._finished:
            self._take_outputs()
            beat()
            if time.monotonic() > end:
                break
        finished, self._finished = self._finished, []
        return finished

    def forget(self) -> list[str]:
        """Forget everything; the keys of what vLLM is still to abort."""
        keys, self._tokens = list(self._running), self.tokens
        self._running, self._own_keys, self._finished = {}, {}, []
        return keys

    def probe(self, sequences: Sequence[tuple[int, ...]], beat: Beat) -> list[tuple[float, ...]]:
        """The log-probs of tokens 1.. of each sequence, ahead of all responses."""
        from vllm import SamplingParams

        parameters = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        running = bool(self._running)
        if running:
            # However important, a request in the queue waits for one that runs to end.
            pause(self._engine)
            forget_keys_and_values(self._engine)
        asked = {f"probe-{next(self._numbers)}": sequence for sequence in sequences}
        for key, sequence in asked.items():
            prompt = {"prompt_token_ids": list(sequence)}
            self._engine.add_request(key, prompt, parameters, priority=_PROBE_PRIORITY)
            beat()
        if running:
            resume(self._engine)
        answers: dict[str, tuple[float, ...]] = {}
        while len(answers) < len(asked):
            for output in self._take_outputs():
                places = zip(asked[output.request_id], output.prompt_logprobs or (), strict=True)
                answers[output.request_id] = tuple(place[i].logprob for i, place in places if place)
            beat()
        return [answers[key] for key in asked]

    def _take_outputs(self) -> list[RequestOutput]:
        """Wait for vLLM's next outputs; those that are no response's are returned."""
        others: list[RequestOutput] = []
        stopped: list[str] = []
        for output in self._engine.step():
            key = output.request_id
            if key not in self._running:
                others.append(output)
            elif self._running[key].push(output.outputs[0]):
                self._finish(key, output)
                if not output.finished:
                    stopped.append(key)
        if stopped:
            self._engine.abort_request(stopped)
        return others

    def _finish(self, key: str, output: RequestOutput) -> None:
        if output.finished:
            spans = [(span.version, span.start) for span in output.outputs[0].weight_versions or ()]
        else:
            # vLLM reports the versions with the last output, which there is not when we end a response.
            spans = self._engine.output_processor.request_states[self._own_keys[key]].weight_version_starts
        self._finished.append(self._running[key].sample(spans))
        self._tokens += self._running[key].tokens
        del self._running[key], self._own_keys[key]
