import asyncio
import subprocess
import sys
from contextlib import suppress

import pytest
from fake_server import (
    card,
    chat_message,
    completion,
    garbage,
    hang,
    other_json,
    reset,
    running,
    slow_drip,
    status,
)

from rlpost.endpoint import Endpoint, EndpointSettings
from rlpost.endpoint.replies import read_reply
from rlpost.endpoint.waits import next_wait, retry_after
from rlpost.errors import ConfigError, EndpointError, EndpointTimeoutError, RlpostError, UserError

KEY = "sk-not-to-be-seen"


def answer(route, body):
    if route == "/chat/completions":
        return chat_message(body["messages"][-1]["content"].upper())
    return completion(body["prompt"].upper())


@pytest.fixture(scope="module")
def shared():
    with running(answer) as server:
        yield server


@pytest.fixture
def server(shared, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    shared.faults.clear()
    shared.seen.clear()
    shared.models = [card("tiny", max_model_len=320)]
    return shared


def settings(server, **options):
    chosen = {"timeout_s": 30.0, "deadline_s": 60.0, "retries": 3, "backoff_s": 0.001, **options}
    return EndpointSettings(server.url, **chosen)


def use(chosen, work):
    async def run():
        endpoint = Endpoint(chosen)
        try:
            return await work(endpoint), endpoint
        finally:
            await endpoint.close()

    return asyncio.run(run())


def ask(chosen):
    reply, _ = use(chosen, lambda endpoint: endpoint.complete("tiny", "hello", {"seed": 7}))
    return reply


def refusal(kind, work, *arguments):
    with pytest.raises(kind) as error:
        work(*arguments)
    assert KEY not in str(error.value)
    return str(error.value)


def open_model(chosen):
    return use(chosen, lambda endpoint: endpoint.open())[0]


def test_both_routes_are_asked_with_the_key_and_further_fields(server):
    reply = ask(settings(server))
    assert (reply.text, reply.finish_reason, reply.completion_tokens, reply.retries) == (
        "HELLO",
        "stop",
        7,
        0,
    )
    messages = [{"role": "user", "content": "hey"}]
    reply, _ = use(settings(server), lambda e: e.chat("tiny", messages, {"top_k": 3}))
    assert reply.text == "HEY"
    (first, headers, body), (second, _, chat) = server.seen
    assert (first, second) == ("/completions", "/chat/completions")
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body == {"model": "tiny", "prompt": "hello", "seed": 7}
    assert chat == {"model": "tiny", "messages": messages, "top_k": 3}


@pytest.mark.parametrize(
    "fault",
    [
        *(status(code) for code in (408, 409, 429, 500, 502, 503, 504)),
        garbage,
        other_json,
        reset,
    ],
)
def test_a_fault_that_may_pass_is_tried_again(server, fault):
    server.faults.extend([fault, fault])
    reply, endpoint = use(settings(server), lambda e: e.complete("tiny", "hello", {}))
    assert (reply.text, reply.retries, endpoint.retries) == ("HELLO", 2, 2)
    assert len(server.seen) == 3


@pytest.mark.parametrize("fault", [hang, slow_drip])
def test_an_attempt_that_takes_too_long_is_tried_again(server, fault):
    server.faults.append(fault)
    assert ask(settings(server, timeout_s=0.25)).retries == 1


def test_a_fault_that_stays_is_an_error_that_names_the_last_one(server):
    server.faults.extend([status(500), reset, status(503, f"no worker for {KEY}"), status(502)])
    message = refusal(EndpointError, ask, settings(server, retries=2))
    assert "status 503: no worker for [key] (attempt 3 of at most 3)" in message
    server.faults.clear()
    server.faults.append(garbage)
    assert "no JSON but '<html>" in refusal(EndpointError, ask, settings(server, retries=0))
    assert len(server.seen) == 4


def test_no_request_outlives_its_total_deadline(server):
    server.faults.extend([hang] * 50)
    message = refusal(EndpointTimeoutError, ask, settings(server, timeout_s=0.1, deadline_s=0.4, retries=49))
    assert "no answer in time" in message
    assert 2 <= len(server.seen) <= 5


def test_a_wait_beyond_the_deadline_is_not_waited_for(server):
    server.faults.append(status(429, Retry_After="3600"))
    message = refusal(EndpointTimeoutError, ask, settings(server))
    assert "asks to wait 3600 s" in message
    assert len(server.seen) == 1


def test_retry_after_goes_before_the_own_back_off(server):
    server.faults.append(status(429, Retry_After="0.01"))
    assert ask(settings(server, backoff_s=50.0)).retries == 1


def test_the_headers_that_ask_to_wait():
    assert retry_after({"retry-after": "7"}) == 7.0
    assert retry_after({"retry-after-ms": "250", "retry-after": "7"}) == 0.25
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}) > 1e9
    assert retry_after({"retry-after": "soon"}) is None and retry_after({}) is None


def test_waits_double_up_to_half_a_minute():
    for attempt, longest in ((0, 0.5), (1, 1.0), (3, 4.0), (6, 30.0), (1000, 30.0)):
        waits = [next_wait(attempt, 0.5, None) for _ in range(50)]
        assert 0.75 * longest <= min(waits) <= max(waits) <= longest
        assert min(next_wait(attempt, 0.5, 12.0) for _ in range(50)) >= 12.0


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (status(400, "maximum context length is 320 tokens"), EndpointError, "maximum context length is 320"),
        (status(422, "seed: not an integer"), EndpointError, "seed: not an integer"),
        (status(403, "flagged"), EndpointError, "flagged"),
        (status(401, f"Incorrect API key provided: {KEY}"), UserError, "refuses the API key"),
        (status(402, "Insufficient Balance"), UserError, "no credit left"),
        (status(429, "see your plan", "insufficient_quota"), UserError, "no credit left"),
        (status(404, "Not Found"), UserError, "no such route, or no longer this model"),
    ],
)
def test_a_refusal_is_final_and_says_whether_it_holds_for_all(server, fault, kind, words):
    server.faults.append(fault)
    assert words in refusal(kind, ask, settings(server))
    assert len(server.seen) == 1


def test_requests_at_the_same_time_are_bounded():
    async def work(endpoint):
        replies = [endpoint.complete("tiny", f"p{i}", {}) for i in range(20)]
        return [reply.text for reply in await asyncio.gather(*replies)]

    with running(answer) as server:
        texts, _ = use(settings(server, concurrency=3), work)
        assert texts == [f"P{i}" for i in range(20)]
        assert 1 <= server.most_at_once <= 3


def test_silence_is_counted_and_any_answer_ends_the_count(server):
    async def work(endpoint):
        counts = []
        for fault in (status(500), reset, status(400), status(500), None):
            server.faults.extend([fault] if fault else [])
            with suppress(EndpointError):
                await endpoint.complete("tiny", "hello", {})
            counts.append(endpoint.unanswered)
        return counts

    assert use(settings(server, retries=0), work)[0] == [1, 2, 0, 1, 0]


def test_the_only_model_is_taken_and_others_are_found_by_name(server):
    model = open_model(settings(server))
    assert (model.name, model.server, model.positions) == ("tiny", "vllm", 320)
    server.models = [card("tiny"), {"id": "owner/large"}]
    large = open_model(settings(server, model="owner/large"))
    assert (large.name, large.server, large.positions) == ("owner/large", "", None)
    message = refusal(UserError, open_model, settings(server))
    assert "none was named" in message and "tiny, owner/large" in message
    message = refusal(UserError, open_model, settings(server, model="owner/larg"))
    assert "found:  tiny, owner/large" in message and "did you mean 'owner/large'?" in message
    server.models = []
    assert "has no model" in refusal(UserError, open_model, settings(server))


def test_a_first_contact_that_fails_says_why(server, monkeypatch):
    server.faults.append(status(401))
    message = refusal(UserError, open_model, settings(server, key_variable="NO_SUCH_KEY"))
    assert "NO_SUCH_KEY is not set" in message
    server.faults.append(garbage)
    message = refusal(UserError, open_model, settings(server, retries=0))
    assert "no OpenAI-compatible server" in message and "<html>" in message
    server.faults.extend([status(503)] * 3)
    assert "not ready" in refusal(UserError, open_model, settings(server))
    wrong = EndpointSettings(server.url.replace("/v1", "/api"))
    assert "usually ends in /v1" in refusal(UserError, open_model, wrong)
    nobody = EndpointSettings("http://127.0.0.1:1", backoff_s=0.001)
    assert "no model server answers" in refusal(UserError, open_model, nobody)
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY} with\nmore")
    assert "characters that no key has" in refusal(ConfigError, open_model, settings(server))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("https://host/api/v2/", "https://host/api/v2"),
    ],
)
def test_an_address_without_a_path_gets_the_usual_one(url, address):
    assert EndpointSettings(url).address == address


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "localhost:8000"}, "not the URL"),
        ({"url": "http://"}, "not the URL"),
        ({"url": "http://host:port/v1"}, "not the URL"),
        ({"url": f"http://user:{KEY}@host/v1"}, "user or password"),
        ({"url": "http://host/v1/chat/completions"}, "without /chat/completions"),
        ({"url": "http://host", "retries": -1}, "retries is out of range"),
        ({"url": "http://host", "concurrency": 0}, "concurrency is out of range"),
        ({"url": "http://host", "deadline_s": 0.0}, "deadline_s is out of range"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(options, words):
    with pytest.raises(ConfigError, match=words) as error:
        EndpointSettings(**options)
    assert KEY not in str(error.value)


def test_what_a_reply_says_is_read_and_what_it_does_not_say_stays_unknown():
    plain = read_reply({"choices": [{"text": "a", "finish_reason": "stop"}]})
    assert (plain.token_ids, plain.prompt_tokens, plain.completion_tokens) == (None, None, None)
    assert (plain.stop, plain.says_stop) == (None, False)
    vllm = {
        "text": "a",
        "finish_reason": "stop",
        "stop_reason": "x",
        "token_ids": [1],
        "prompt_token_ids": [2],
    }
    reply = read_reply({"choices": [vllm], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}, retries=2)
    assert (reply.stop, reply.says_stop, reply.token_ids, reply.prompt_token_ids) == ("x", True, (1,), (2,))
    assert reply.retries == 2
    thought = read_reply(chat_message("72", reasoning="6 * 12"))
    assert thought.text == "<think>6 * 12</think>72"
    assert read_reply(chat_message(None, "length", reasoning_content="6")).text == "<think>6</think>"
    for wrong in (None, [], {}, {"choices": [{}]}, {"choices": [{"finish_reason": "stop", "text": 7}]}):
        with pytest.raises(ValueError):
            read_reply(wrong)


def test_a_missing_library_is_one_message_and_importing_the_client_needs_none(project_root):
    program = (
        "import sys; sys.modules['openai'] = None; import rlpost.endpoint as e; import rlpost.versions as v\n"
        "v.distributions = lambda **_: iter(())\n"
        "try: e.Endpoint(e.EndpointSettings('http://host'))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project_root,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("UserError openai is not installed")
    assert "rlpost[endpoint]" in done.stdout


def test_errors_of_requests_are_no_mistakes_of_the_user():
    assert not issubclass(EndpointError, UserError) and issubclass(EndpointTimeoutError, EndpointError)
    assert issubclass(EndpointError, RlpostError)
