import json
import threading
from dataclasses import replace

import pytest
from endpoint_contract import CONTRACT, POSITIONS, TOKENIZER, Subject, engine_at, torch_engine
from fake_server import card, chat_message, completion, hang, reset, running, status

from rlpost.errors import ConfigError, EngineLostError, RolloutError, UserError
from rlpost.rollout import EndpointEngine, FailedSample, Sample, SampleRequest, SamplingSettings


def answers_of(engine):
    """vLLM's answers, by the torch engine."""
    lock = threading.Lock()

    def answer(route, body):
        if route == "/chat/completions":
            options = {"add_generation_prompt": True, "return_dict": False}
            ids = TOKENIZER.apply_chat_template(body["messages"], **options)
        else:
            asked = body["prompt"]
            ids = TOKENIZER(asked)["input_ids"] if isinstance(asked, str) else asked
        room = POSITIONS - len(ids)
        if room <= 0:
            raise ValueError(f"This model's maximum context length is {POSITIONS} tokens.")
        stop = tuple(body.get("stop", ()))
        settings = SamplingSettings(
            body["temperature"], body["top_p"], max(0, body["top_k"]), min(body["max_tokens"], room), stop
        )
        with lock:
            [sample] = engine.generate([SampleRequest("r", tuple(ids), body["seed"], settings)])
        ended = {
            "finish_reason": "length" if sample.finish_reason == "length" else "stop",
            "stop_reason": stop[0] if sample.finish_reason == "stop" else None,
            "token_ids": list(sample.token_ids) if body.get("return_token_ids") else None,
        }
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(sample.token_ids)}
        if route == "/chat/completions":
            choice = {"message": {"role": "assistant", "content": sample.text}, **ended}
            return {"choices": [choice], "prompt_token_ids": ids, "usage": usage}
        return {"choices": [{"text": sample.text, "prompt_token_ids": ids, **ended}], "usage": usage}

    return answer


@pytest.fixture(scope="module")
def subject():
    local = torch_engine()
    with running(answers_of(torch_engine())) as server:
        yield Subject(server.url, local)


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
def test_the_fake_server_keeps_the_contract_of_the_real_one(clause, subject):
    clause(subject)


def echo(route, body):
    """A server that says as little as it may: no token ids, no stop reason."""
    if route == "/chat/completions":
        return chat_message(body["messages"][-1]["content"])
    return completion(body["prompt"])


@pytest.fixture
def server():
    with running(echo, [card("tiny", owned_by="someone")]) as server:
        yield server


def plain(*texts, **settings):
    """Requests without token ids, as without a tokenizer."""
    chosen = SamplingSettings(**settings)
    return [SampleRequest(f"r{i}", (), i, chosen, text) for i, text in enumerate(texts)]


@pytest.fixture
def engine(server):
    engine = EndpointEngine(
        server.url, concurrency=4, backoff_s=0.001, retries=1, timeout_s=30, deadline_s=60
    )
    yield engine
    engine.close()


def test_what_a_server_does_not_say_stays_unknown(server, engine):
    [sample] = engine.generate(plain("hey", max_tokens=9))
    assert sample == Sample("r0", (), (), (), "eos", "hey", unseen_tokens=7)
    assert sample.tokens == engine.tokens == 7
    # It might have been EOS, or one of the strings: the server does not say.
    assert engine.generate(plain("hey", stop=("x",)))[0].finish_reason == "stop"
    server.answer = lambda route, body: {"choices": completion("a")["choices"]}
    [silent] = engine.generate(plain("hey"))
    assert (silent.tokens, silent.unseen_tokens) == (None, -1)


def test_fields_that_not_all_servers_take_go_to_those_that_do(server, engine):
    engine.generate(plain("a", temperature=0.6, top_p=0.95, max_tokens=9, stop=("x",)))
    assert server.seen[-1][2] == {
        "model": "tiny", "prompt": "a", "temperature": 0.6, "top_p": 0.95, "max_tokens": 9, "seed": 0,
        "n": 1, "stream": False, "stop": ["x"],
    }  # fmt: skip
    with pytest.raises(ConfigError, match="not known to take top_k"):
        engine.generate(plain("a", top_k=5))
    further = {"top_k": 5, "max_completion_tokens": 12, "max_tokens": None}
    with engine_at(Subject(server.url, None), chat=True, body=further) as asked:
        asked.generate(plain("a", top_k=5))
    route, _, body = server.seen[-1]
    assert (route, body["top_k"], body["max_completion_tokens"]) == ("/chat/completions", 5, 12)
    assert "max_tokens" not in body
    server.models = [card("tiny", owned_by="llamacpp")]
    with engine_at(Subject(server.url, None)) as asked:
        asked.generate([replace(plain("a")[0], seed=2**63 - 1)])
    body = server.seen[-1][2]
    assert (body["add_special_tokens"], body["top_k"]) == (False, 0)
    assert 0 <= body["seed"] < 2**32 - 1


def test_a_request_that_comes_to_nothing_fails_alone_and_says_how(server, engine):
    def answer(route, body):
        if body["prompt"] == "filtered":
            return completion("", finish_reason="content_filter")
        return echo(route, body)

    server.answer = answer
    server.faults.extend([status(500, "out of memory")] * 2)
    [broken] = engine.generate(plain("a"))
    assert (broken.id, broken.outcome) == ("r0", "error")
    assert "status 500: out of memory (attempt 2 of at most 2)" in broken.note
    first, filtered, last = engine.generate(plain("a", "filtered", "c"))
    assert (first.text, last.text) == ("a", "c")
    assert filtered == FailedSample(
        "r1", "error", "the server ended the response with finish_reason 'content_filter'"
    )
    server.faults.extend([reset, status(429, Retry_After="0.001")])
    assert [sample.text for sample in engine.generate(plain("a", "b"))] == ["a", "b"]
    assert engine.retries == 3


def test_a_request_that_takes_too_long_has_the_outcome_timeout(server):
    engine = EndpointEngine(server.url, timeout_s=0.1, deadline_s=0.2, retries=0)
    server.faults.append(hang)
    [late] = engine.generate(plain("a"))
    assert (late.outcome, late.tokens if isinstance(late, Sample) else None) == ("timeout", None)
    engine.close()


def test_a_server_that_falls_silent_ends_the_sampling_and_not_with_failed_samples_for_all(server, engine):
    server.faults.extend([status(503)] * 1000)
    engine.add(plain(*"abcdefghijklmnopqrst"))
    done = []
    with pytest.raises(EngineLostError, match=r"(?s)8 requests in a row without an answer.*status 503"):
        while engine.unfinished:
            done += engine.step()
    assert len(done) <= 8 and all(isinstance(sample, FailedSample) for sample in done)
    engine.abort()
    server.faults.clear()
    assert engine.generate(plain("a"))[0].text == "a"


def test_what_no_request_would_escape_is_raised(server, engine):
    server.faults.append(status(401))
    with pytest.raises(UserError, match="refuses the API key"):
        engine.generate(plain("a"))
    server.models = []
    with pytest.raises(UserError, match="no longer this model"):
        engine.generate(plain("a", "b"))
    assert engine.unfinished == 0


def test_requests_may_come_at_any_time_and_be_forgotten(server, engine):
    server.faults.extend([hang] * 4)
    engine.add(plain(*"abcd"))
    assert engine.unfinished == 4 and engine.step() == []
    with pytest.raises(RolloutError, match="the same id"):
        engine.add(plain("x"))
    with pytest.raises(RolloutError, match="doing nothing else"):
        engine.generate([])
    engine.abort()
    assert engine.unfinished == 0 and engine.step() == []
    engine.add([replace(request, id=f"n{i}") for i, request in enumerate(plain("e", "f"))])
    done = []
    while engine.unfinished:
        done += engine.step()
    assert {(sample.id, sample.text) for sample in done} == {("n0", "e"), ("n1", "f")}


def test_a_prompt_in_another_form_than_is_sent_is_refused_and_nothing_is_sent(server, engine):
    messages = ({"role": "user", "content": "hey"},)
    fine = plain("a", "b")
    for wrong, words in (
        (replace(fine[0], prompt=None), "found:  nothing"),
        (replace(fine[0], prompt=messages), "chat=True"),
        (replace(fine[0], settings=SamplingSettings(max_tokens=0)), "max_tokens is out of range"),
    ):
        with pytest.raises((RolloutError, ConfigError), match=words):
            engine.add([fine[1], wrong])
    assert engine.unfinished == 0 and not server.seen
    with pytest.raises(ConfigError, match="not token ids"):
        EndpointEngine(server.url, chat=True, token_prompts=True)


def test_another_number_of_prompt_tokens_is_noticed_where_no_ids_come_back(server, engine):
    server.answer = lambda route, body: {**completion("a"), "usage": {"prompt_tokens": 3}}
    [request] = plain("hi")
    with pytest.raises(RolloutError, match=r"(?s)found:  3 tokens.*needed: 2 tokens.*token_prompts"):
        engine.generate([replace(request, prompt_token_ids=(1, 2))])
    assert engine.generate([replace(request, prompt_token_ids=(1, 2, 3))])[0].text == "a"


def test_an_engine_that_was_closed_leaves_no_thread(server):
    before = threading.active_count()
    engine = EndpointEngine(server.url)
    server.faults.append(hang)
    engine.add(plain("a"))
    engine.close()
    assert not any(thread.name == "endpoint" for thread in threading.enumerate())
    assert threading.active_count() <= before + 2  # the server's own, for connections


def test_the_key_is_in_no_message(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-not-to-be-seen")
    engine = EndpointEngine(server.url, key_variable="MY_KEY", retries=0)
    server.faults.append(status(400, "you sent sk-not-to-be-seen"))
    [failed] = engine.generate(plain("a"))
    engine.close()
    assert server.seen[0][1]["authorization"] == "Bearer sk-not-to-be-seen"
    assert "you sent [key]" in failed.note
    assert "sk-not" not in json.dumps([failed.note, engine.url, repr(vars(engine))])
