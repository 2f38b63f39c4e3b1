"""A model server on loopback: a tiny model behind OpenAI's routes, and faults on demand."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str, dict[str, Any]], dict[str, Any]]
Fault = Callable[["Handler"], None]


class FakeServer(ThreadingHTTPServer):
    """Answers POSTs with `answer(route, body)`, after the `faults`, which are used up one by one.

    Attributes:
        seen: (route, headers, body) of every POST.
        models: what it lists; anything else of a request's `model` is a 404.
        stopping: set at the end, for faults that wait.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Answer, models: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.models = answer, models
        self.faults: deque[Fault] = deque()
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no news."""


class Handler(BaseHTTPRequestHandler):
    server: FakeServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            return self.reply(404, {"detail": "Not Found"})
        if self.server.faults:
            return self.server.faults.popleft()(self)
        return self.reply(200, {"object": "list", "data": self.server.models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, route = self.server, self.path.removeprefix("/v1")
        with server.lock:
            server.seen.append((route, {k.lower(): v for k, v in self.headers.items()}, body))
            fault = server.faults.popleft() if server.faults else None
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            if fault is not None:
                return fault(self)
            if body["model"] not in [model["id"] for model in server.models]:
                return self.reply(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
            try:
                return self.reply(200, server.answer(route, body))
            except ValueError as error:
                return self.reply(400, {"error": {"message": str(error)}})
        finally:
            with server.lock:
                server.at_once -= 1

    def reply(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


def status(code: int, message: str = "try later", code_word: str = "", **headers: str) -> Fault:
    error = {"error": {"message": message, "code": code_word}}
    return lambda handler: handler.reply(code, error, {k.replace("_", "-"): v for k, v in headers.items()})


def garbage(handler: Handler) -> None:
    handler.reply(200, b"<html>It works!</html>")


def other_json(handler: Handler) -> None:
    handler.reply(200, {"choices": []})


def hang(handler: Handler) -> None:
    handler.server.stopping.wait(60)


def reset(handler: Handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())
    handler.close_connection = True


def slow_drip(handler: Handler) -> None:
    """A byte now and then: no single read takes long, the whole would take minutes."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    while not handler.server.stopping.is_set():
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.02)


def card(name: str, **more: Any) -> dict[str, Any]:
    """A model as vLLM lists it."""
    return {"id": name, "object": "model", "owned_by": "vllm", **more}


@contextmanager
def running(answer: Answer, models: list[dict[str, Any]] | None = None) -> Iterator[FakeServer]:
    """A server in a thread of this process."""
    server = FakeServer(answer, models if models is not None else [card("tiny", max_model_len=320)])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


def completion(text: str, **more: Any) -> dict[str, Any]:
    """The JSON of a completion that ended by itself; `more` goes into its choice."""
    choice = {"index": 0, "text": text, "finish_reason": "stop", **more}
    return {"object": "text_completion", "choices": [choice], "usage": {"completion_tokens": 7}}


def chat_message(content: str | None, finish_reason: str = "stop", **more: Any) -> dict[str, Any]:
    """The JSON of a chat completion; `more` goes into its message."""
    message = {"role": "assistant", "content": content, **more}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"object": "chat.completion", "choices": [choice], "usage": {"completion_tokens": 7}}
