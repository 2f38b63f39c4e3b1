"""What is said of servers that are none of Ray's jobs, or of another Ray, or that nobody hears from."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from rlpost.errors import DeadlineError, UserError
from rlpost.launch import ray_server
from rlpost.launch.ray_server import JobServer, ServerLostError

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def _ray(monkeypatch):
    pytest.importorskip("ray")
    for name in ("RAY_AUTH_MODE", "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")


@contextmanager
def answering(status, body):
    """A server that says the same to everything; its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://me:secret@127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, "", r"no job server of a Ray cluster\n.*127.*\n.*knows no /api/version"),
        (200, "<html>hello</html>", r"no job server of a Ray cluster\n.*127"),
        (
            200,
            json.dumps({"ray_version": "2.9.0"}),
            r"another version of Ray\n.*127.*\n.*2\.9\.0\n.*2\.60\.0",
        ),
        (
            200,
            json.dumps({"ray_version": "1.8.0"}),
            r"another version of Ray\n.*127.*\n.*1\.8\.0\n.*2\.60\.0",
        ),
        (401, "Unauthorized: Missing authentication token", r"asks for a token\n.*127.*\n.*RAY_AUTH_MODE"),
        (403, "Forbidden: Invalid authentication token", "does not accept the token"),
    ],
)
def test_each_wrong_server_has_its_own_message_and_a_remedy(status, body, expected):
    with answering(status, body) as address, pytest.raises(UserError, match=expected) as caught:
        JobServer(address)
    assert "remedy:" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_or_says_nothing_is_given_up_within_the_deadline(monkeypatch):
    monkeypatch.setattr(ray_server, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        start = time.monotonic()
        with pytest.raises(ServerLostError, match=rf"127\.0\.0\.1:{port}\n.*no answer within"):
            JobServer(f"http://127.0.0.1:{port}")
        assert time.monotonic() - start < 60
    with pytest.raises(ServerLostError, match=r"nobody listens there(?s:.*)remedy: .*--address"):
        JobServer(f"http://127.0.0.1:{port}")
    monkeypatch.setattr(ray_server, "LOOKUP_S", 0.2)
    with pytest.raises(DeadlineError, match=r"127\.0\.0\.1:1\n.*no answer within 0 s"):
        JobServer("127.0.0.1:1")
