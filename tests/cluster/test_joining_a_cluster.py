"""What is said of a cluster that cannot be joined, or of which a machine is gone."""

import socket
import time
from pathlib import Path

import pytest

from rlpost.cluster import host
from rlpost.cluster.ray_head import HeadWatch
from rlpost.cluster.ray_member import ray_reason
from rlpost.cluster.ray_start import _not_joined, _reach
from rlpost.errors import RlpostError, UserError

DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: MemberHost
\tip: 10.0.0.4
The actor died because its node has died. Node Id: 43549f71
\tthe actor's node was terminated unexpectedly: health check failed due to missing too many heartbeats
"""


def refused(*causes):
    """What Ray raises, one error the cause of the other."""
    error = None
    for text in reversed(causes):
        outer = ConnectionError(text)
        outer.__cause__ = error
        error = outer
    return str(_not_joined("auto", error)).splitlines()


def test_a_refused_token_is_told_by_its_place_and_never_shown(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    said = (
        "Failed to connect to Ray cluster",
        "RPC error: InvalidAuthToken: it is incorrect",
    )
    assert refused(*said)[:3] == [
        "the Ray cluster does not let this run in",
        "  where:  cluster.address: auto",
        "  found:  no token: there is no ~/.ray/auth_token",
    ]
    (tmp_path / "token").write_text("secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert refused(*said)[2] == f"  found:  another token, from {tmp_path}/token"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert refused(*said)[2] == "  found:  another token, from RAY_AUTH_TOKEN"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert refused(*said)[2] == "  found:  RAY_AUTH_MODE=disabled, so no token was shown"
    assert "secret" not in "".join(refused(*said))
    assert refused("Could not find any running Ray instance.\nmore")[0] == "there is no Ray cluster to join"


def test_an_address_where_nobody_listens_is_refused_at_once():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        _reach(f"127.0.0.1:{port}")
    with pytest.raises(UserError, match=rf"cluster.address: 127.0.0.1:{port}\n +found: +Connection refused"):
        _reach(f"127.0.0.1:{port}")
    _reach("auto")


def test_a_member_whose_machine_is_gone_names_it():
    assert ray_reason(DIED, "node-2") == (
        "its machine node-2 left the cluster: health check failed due to missing too many heartbeats"
    )
    assert ray_reason("Worker exit detail: a signal. Some common causes include", "node-2") == "a signal"


def test_a_machine_that_does_not_see_the_run_directory_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "SHARED_S", 0.1)
    (tmp_path / "logs").mkdir()
    marker = tmp_path / "logs" / "marker"
    error = host._check_shared(marker)
    assert error.exit_status == 2
    assert error.details["where"] == f"{tmp_path}, on {socket.gethostname()}"
    Path(marker).touch()
    assert host._check_shared(marker) is None
    assert host._check_shared(None) is None


def test_a_head_that_is_gone_is_said_once(monkeypatch):
    monkeypatch.setattr("rlpost.cluster.ray_head.ASK_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        watch = HeadWatch(f"127.0.0.1:{listener.getsockname()[1]}", "node-1", 0.1)
        time.sleep(0.15)
        watch.check()
    end = time.monotonic() + 60
    with pytest.raises(RlpostError, match="node-1, the head of the Ray cluster, is gone"):
        while time.monotonic() < end:
            watch.check()
            time.sleep(0.02)
    assert watch.lost
    watch.check()
