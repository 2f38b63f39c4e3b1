"""Which version sampled which token of a vLLM engine's response; needs no vLLM."""

from types import SimpleNamespace

import pytest

from rlpost.errors import WeightTransferError
from rlpost.models.tokenizer import build_tiny_tokenizer
from rlpost.rollout import SampleRequest, SamplingSettings
from rlpost.rollout.stop import TextView
from rlpost.rollout.vllm_responses import Response


def response(given):
    """A response to which three tokens came."""
    settings = SamplingSettings(max_tokens=9)
    response = Response(
        SampleRequest("r", (65,), 0, settings), TextView(build_tiny_tokenizer()), frozenset({2}), given
    )
    logprobs = [{token: SimpleNamespace(logprob=-1.0)} for token in (70, 71, 2)]
    output = SimpleNamespace(token_ids=[70, 71, 2], logprobs=logprobs, finish_reason="stop")
    assert response.push(output)
    return response


def test_each_token_has_the_version_of_its_span():
    given = [3, 7]
    running = response(given)
    given += [8, 9]
    assert running.sample([("7", 0), ("9", 2)]).versions == (7, 7, 9)
    assert running.sample([("8", 0)]).versions == (8, 8, 8)
    assert running.sample([("7", 0), ("9", 3)]).versions == (7, 7, 7)


@pytest.mark.parametrize(
    ("spans", "found"),
    [
        ([], "no version"),
        ([("default", 0)], "version default from token 0 on"),
        ([("3", 0)], "version 3 from token 0 on"),
        ([("7", 0), ("10", 1)], "version 10 from token 1 on"),
        ([("9", 0), ("8", 1)], "version 9 from token 0 on, version 8 from token 1 on"),
        ([("7", 1)], "version 7 from token 1 on"),
    ],
    ids=["unknown", "default", "from_before", "never_given", "decreasing", "first_unknown"],
)
def test_a_token_of_a_version_that_the_engine_was_not_given_is_an_error(spans, found):
    given = [3, 7]
    running = response(given)
    given += [8, 9]
    with pytest.raises(WeightTransferError, match="other weights") as caught:
        running.sample(spans)
    assert found in str(caught.value)
    assert "version 7, then 8, then 9" in str(caught.value)
