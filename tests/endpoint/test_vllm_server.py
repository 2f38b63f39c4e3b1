"""EndpointEngine against a real server: vLLM's, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from endpoint_contract import CONTRACT, TOKENIZER, Subject, tiny_model, torch_engine

from rlpost.errors import UserError
from rlpost.rollout import EndpointEngine

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
]

SERVER = """\
import ctypes, os, runpy, signal
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # with the test's process ends this one, and vLLM ends its own
if os.getppid() == int(os.environ["OWNER"]):
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
"""
START_DEADLINE_S = 240.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(process, url, log) -> None:
    end = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            EndpointEngine(url, retries=0).close()
            return
        except UserError:
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.5)


def test_vllms_server_keeps_the_contract(tmp_path):
    model = tmp_path / "model"
    tiny_model().save_pretrained(model)
    TOKENIZER.save_pretrained(model)
    port, log = free_port(), tmp_path / "server.log"
    options = {
        "model": model, "host": "127.0.0.1", "port": port, "served-model-name": "tiny", "dtype": "float32",
        "max-num-seqs": 64, "kv-cache-memory-bytes": 2**28,
    }  # fmt: skip
    program = tmp_path / "serve.py"
    program.write_text(SERVER)
    environment = {
        **os.environ,
        "OWNER": str(os.getpid()),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "TORCH_COMPILE_DISABLE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, program, *flags, "--enforce-eager"],
            stdout=output, stderr=output, env=environment, cwd=tmp_path, start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}/v1"
            wait_until_ready(process, url, log)
            subject = Subject(url, torch_engine())
            for clause in CONTRACT:
                clause(subject)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
