"""What every engine must do, as functions of an engine; each engine's test file runs them all.

An engine under contract knows 261 byte tokens (the tiny tokenizer), has version -1 when made, and
peaked random weights. `bundle(engine, version, seed)` makes weights that fit it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from rlpost.errors import WeightTransferError
from rlpost.rollout import Engine, Sample, SampleRequest, SamplingSettings
from rlpost.weights import WeightBundle, verify_receipt

PROMPTS = ((65, 66, 67), (40,), (100, 101, 102, 103, 104, 105, 106))


@dataclass(frozen=True)
class Subject:
    """An engine under contract, and how to make weights for it (version, seed)."""

    engine: Engine
    bundle: Callable[[int, int], WeightBundle]


def requests(n: int = 12, **settings: object) -> list[SampleRequest]:
    chosen = SamplingSettings(**{"max_tokens": 9, **settings})
    return [SampleRequest(f"r{i}", PROMPTS[i % 3], 1000 + i, chosen) for i in range(n)]


def tokens(samples: Sequence[Sample]) -> dict[str, tuple[int, ...]]:
    return {s.id: s.token_ids for s in samples}


def samples_come_in_the_order_of_the_requests(subject: Subject) -> None:
    wanted = requests()
    assert [s.id for s in subject.engine.generate(wanted)] == [r.id for r in wanted]
    assert subject.engine.generate([]) == []


def every_token_has_a_logprob_and_the_version_in_use(subject: Subject) -> None:
    subject.engine.load_weights(subject.bundle(3, 1))
    for sample in subject.engine.generate(requests()):
        assert len(sample.token_ids) == len(sample.logprobs) == len(sample.versions) > 0
        assert set(sample.versions) == {3}
        assert all(lp <= 0 for lp in sample.logprobs)


def company_and_order_change_no_sample(subject: Subject) -> None:
    wanted = requests()
    together = tokens(subject.engine.generate(wanted))
    assert tokens(subject.engine.generate(wanted[::-1])) == together
    for request in wanted[:4]:
        assert subject.engine.generate([request])[0].token_ids == together[request.id]


def the_seed_decides_the_sample(subject: Subject) -> None:
    request = requests(1)[0]
    same = subject.engine.generate([request, replace(request, id="twin")])
    assert same[0].token_ids == same[1].token_ids
    others = subject.engine.generate([replace(request, id=f"s{s}", seed=s) for s in range(20)])
    assert len({s.token_ids for s in others}) > 10


def max_tokens_ends_a_response_with_reason_length(subject: Subject) -> None:
    for limit in (1, 5):
        for sample in subject.engine.generate(requests(max_tokens=limit)):
            assert len(sample.token_ids) <= limit
            if sample.finish_reason == "length":
                assert len(sample.token_ids) == limit
            else:
                assert sample.token_ids[-1] == 2


def a_stop_string_ends_a_response_and_stays_out_of_its_text(subject: Subject) -> None:
    free = subject.engine.generate(requests(max_tokens=30))
    stop = next(s.text[2:4] for s in free if len(s.text) > 8 and s.text[2:4].isprintable())
    stopped = subject.engine.generate(requests(max_tokens=30, stop=(stop,)))
    assert any(s.finish_reason == "stop" for s in stopped)
    for before, after in zip(free, stopped, strict=True):
        n = len(after.token_ids)
        assert after.token_ids == before.token_ids[:n]
        assert stop not in after.text
        assert (after.finish_reason == "stop") == (stop in before.text)
        assert after.text == before.text.split(stop)[0]


def logprobs_at_temperature_one_are_those_of_the_probe(subject: Subject) -> None:
    wanted = requests()
    samples = subject.engine.generate(wanted)
    pairs = list(zip(wanted, samples, strict=True))
    probed = subject.engine.probe([r.prompt_token_ids + s.token_ids for r, s in pairs])
    for (request, sample), logprobs in zip(pairs, probed, strict=True):
        assert len(logprobs) == len(request.prompt_token_ids) + len(sample.token_ids) - 1
        assert sample.logprobs == pytest.approx(logprobs[len(request.prompt_token_ids) - 1 :], abs=1e-4)


def greedy_takes_the_likeliest_token_whatever_the_seed(subject: Subject) -> None:
    wanted = requests(6, temperature=0.0)
    first = subject.engine.generate(wanted)
    again = subject.engine.generate([replace(r, seed=r.seed + 1) for r in wanted])
    assert tokens(first) == tokens(again)
    for i, request in enumerate(wanted[:3]):
        candidates = [(*request.prompt_token_ids, t) for t in range(261)]
        scores = [answer[-1] for answer in subject.engine.probe(candidates)]
        assert first[i].token_ids[0] == max(range(261), key=scores.__getitem__)
        assert first[i].logprobs[0] == pytest.approx(max(scores), abs=1e-4)


def a_transfer_is_receipted_and_changes_what_is_sampled(subject: Subject) -> None:
    first, second = subject.bundle(0, 1), subject.bundle(1, 2)
    assert subject.engine.version == -1
    verify_receipt(first, subject.engine.load_weights(first))
    assert subject.engine.version == 0
    old = tokens(subject.engine.generate(requests()))
    verify_receipt(second, subject.engine.load_weights(second))
    assert subject.engine.version == 1
    new = tokens(subject.engine.generate(requests()))
    assert sum(new[key] != old[key] for key in new) > len(new) / 2
    subject.engine.load_weights(first)
    assert tokens(subject.engine.generate(requests())) == old


def a_bundle_with_other_names_is_named_and_not_taken(subject: Subject) -> None:
    whole = subject.bundle(0, 1)
    subject.engine.load_weights(whole)
    before = tokens(subject.engine.generate(requests()))
    tensors = dict(subject.bundle(1, 2).tensors)
    name = sorted(tensors)[0]
    missing = WeightBundle.of(1, {k: v for k, v in tensors.items() if k != name})
    extra = WeightBundle.of(1, {**tensors, "extra": tensors[name]})
    for bundle, culprit in ((missing, name), (extra, "extra")):
        with pytest.raises(WeightTransferError, match=f"tensor '{culprit}'"):
            verify_receipt(bundle, subject.engine.load_weights(bundle))
        assert subject.engine.version == 0
        assert tokens(subject.engine.generate(requests())) == before


CONTRACT = (
    samples_come_in_the_order_of_the_requests,
    every_token_has_a_logprob_and_the_version_in_use,
    company_and_order_change_no_sample,
    the_seed_decides_the_sample,
    max_tokens_ends_a_response_with_reason_length,
    a_stop_string_ends_a_response_and_stays_out_of_its_text,
    logprobs_at_temperature_one_are_those_of_the_probe,
    greedy_takes_the_likeliest_token_whatever_the_seed,
    a_transfer_is_receipted_and_changes_what_is_sampled,
    a_bundle_with_other_names_is_named_and_not_taken,
)
