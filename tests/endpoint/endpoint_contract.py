"""What sampling from any model server must be, as functions of a server; the fake one and vLLM's pass all.

A server under contract has one model, `tiny`: the tiny one with 320 positions, and weights of `tiny_model`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from rlpost.config.schema import ModelConfig, TinyModelConfig
from rlpost.errors import ConfigError, RolloutError, UserError
from rlpost.models import load_model, load_tokenizer
from rlpost.rollout import EndpointEngine, FailedSample, SampleRequest, SamplingSettings, TorchEngine
from rlpost.weights import WeightBundle, policy_tensors

POSITIONS = 320
CONFIG = ModelConfig(
    init="tiny",
    tiny=TinyModelConfig(hidden_size=32, layers=2, heads=1, intermediate_size=32, max_positions=POSITIONS),
    dtype="float32",
)
TOKENIZER = load_tokenizer(CONFIG)
TEXTS = ("<user>hi<assistant>", "<bos>What is 12 + 7?", "Zug")


def tiny_model():
    """Weights far from uniform: greedy tokens are clear winners, so they are the same anywhere."""
    model = load_model(CONFIG)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.25, generator=generator)
    return model


def torch_engine() -> TorchEngine:
    """The same weights, sampled from here."""
    model = tiny_model()
    engine = TorchEngine(model, TOKENIZER)
    engine.load_weights(WeightBundle.of(0, policy_tensors(model)))
    return engine


@dataclass(frozen=True)
class Subject:
    """A server under contract."""

    url: str
    local: TorchEngine


def requests(n: int = 6, texts: tuple[str, ...] = TEXTS, **settings: Any) -> list[SampleRequest]:
    chosen = SamplingSettings(**{"temperature": 0.0, "max_tokens": 20, **settings})
    found = []
    for i in range(n):
        text = texts[i % len(texts)] + (str(i) if i >= len(texts) else "")
        ids = tuple(TOKENIZER(text, add_special_tokens=False)["input_ids"])
        found.append(SampleRequest(f"r{i}", ids, 1000 + i, chosen, text))
    return found


@contextmanager
def engine_at(subject: Subject, **options: Any) -> Iterator[EndpointEngine]:
    engine = EndpointEngine(subject.url, **options)
    try:
        yield engine
    finally:
        engine.close()


def whole_characters(text: str) -> str:
    """Servers leave out what a cut response holds of an unfinished character."""
    return text.rstrip("\ufffd")


def assert_equal_samples(subject: Subject, engine: EndpointEngine, wanted: list[SampleRequest]) -> None:
    theirs, ours = engine.generate(wanted), subject.local.generate(wanted)
    assert [s.id for s in theirs] == [r.id for r in wanted]
    for a, b in zip(theirs, ours, strict=True):
        assert (a.token_ids, a.finish_reason) == (b.token_ids, b.finish_reason)
        assert whole_characters(a.text) == whole_characters(b.text)
        assert a.tokens == len(b.token_ids)
        assert (a.logprobs, a.versions) == ((), ())


def the_server_is_described(subject: Subject) -> None:
    with engine_at(subject) as engine:
        assert (engine.model, engine.server, engine.max_positions) == ("tiny", "vllm", POSITIONS)
        assert engine.unfinished == engine.tokens == engine.retries == 0
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        EndpointEngine(subject.url, "tinyy")


def greedy_samples_are_those_of_the_torch_engine(subject: Subject) -> None:
    for options in ({}, {"token_prompts": True}):
        with engine_at(subject, **options) as engine:
            assert_equal_samples(subject, engine, requests())
            assert engine.tokens == sum(len(s.token_ids) for s in subject.local.generate(requests()))


def a_stop_string_ends_a_response_and_stays_out_of_its_text(subject: Subject) -> None:
    stop = "v"
    free = subject.local.generate(requests())
    assert any(stop in sample.text for sample in free)
    with engine_at(subject) as engine:
        wanted = requests(stop=(stop,))
        assert_equal_samples(subject, engine, wanted)
        assert {s.finish_reason for s in engine.generate(wanted)} >= {"stop"}


def a_response_ends_at_eos_or_at_its_limit(subject: Subject) -> None:
    with engine_at(subject) as engine:
        samples = engine.generate(requests(max_tokens=12))
    for sample in samples:
        ended = sample.token_ids[-1] == TOKENIZER.eos_token_id
        assert sample.finish_reason == ("eos" if ended else "length")
        assert ended or len(sample.token_ids) == 12
    assert {sample.finish_reason for sample in samples} == {"eos", "length"}


def the_seed_decides_the_sample(subject: Subject) -> None:
    with engine_at(subject) as engine:
        request = requests(1, temperature=1.0, max_tokens=8)[0]
        same = engine.generate([request, replace(request, id="twin")])
        assert same[0].token_ids == same[1].token_ids
        others = engine.generate([replace(request, id=f"s{s}", seed=2**62 + s) for s in range(6)])
        assert len({s.token_ids for s in others}) > 3


def messages_go_through_the_servers_chat_template(subject: Subject) -> None:
    text = requests(1)[0]
    asked = replace(text, prompt_token_ids=(), prompt=({"role": "user", "content": "hi"},))
    with engine_at(subject, chat=True) as engine:
        found = engine.generate([asked, replace(asked, id="text", prompt="hi")])
    local = subject.local.generate([text])[0]
    assert [whole_characters(s.text) for s in found] == [whole_characters(local.text)] * 2
    assert found[0].tokens == 20


def what_does_not_fit_is_refused_here_or_there(subject: Subject) -> None:
    with engine_at(subject) as engine:
        known = requests(1, texts=("x" * (POSITIONS - 10),))[0]
        with pytest.raises(ConfigError, match="do not fit"):
            engine.generate([known])
        cut = replace(known, prompt_token_ids=(), id="cut")
        long = replace(cut, prompt="x" * (POSITIONS + 80), id="long")
        *failed, fine = engine.generate([cut, long, requests(1)[0]])
        assert all(isinstance(sample, FailedSample) for sample in failed)
        assert [(sample.id, sample.outcome) for sample in failed] == [("cut", "error"), ("long", "error")]
        assert "after 10 of at most 20 tokens" in failed[0].note
        assert f"maximum context length is {POSITIONS} tokens" in failed[1].note
        assert fine.text == engine.generate([requests(1)[0]])[0].text


def a_prompt_that_is_read_otherwise_is_noticed(subject: Subject) -> None:
    wrong = replace(requests(1)[0], prompt_token_ids=(3, 109, 108, 4))
    with engine_at(subject) as engine:
        with pytest.raises(RolloutError, match=r"(?s)reads another prompt.*token 1, counted from 0"):
            engine.generate([wrong])
        assert engine.unfinished == 0


CONTRACT = (
    the_server_is_described,
    greedy_samples_are_those_of_the_torch_engine,
    a_stop_string_ends_a_response_and_stays_out_of_its_text,
    a_response_ends_at_eos_or_at_its_limit,
    the_seed_decides_the_sample,
    messages_go_through_the_servers_chat_template,
    what_does_not_fit_is_refused_here_or_there,
    a_prompt_that_is_read_otherwise_is_noticed,
)
