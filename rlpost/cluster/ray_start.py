"""Joining a Ray cluster, or starting one that only this machine can reach and that ends with the driver."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rlpost.cluster import guardian
from rlpost.config.plugins import part_modules
from rlpost.errors import UserError
from rlpost.versions import require

REACH_S = 20.0
"""For a cluster's head to answer at all."""


@contextmanager
def connected(address: str | None, logs: Path | None) -> Iterator[None]:
    """Join the Ray cluster at `address`, or start one on this machine, bound to loopback; leave it on exit.

    Args:
        logs: the folder for what Ray would print here, when actors have logs of their own there.

    Raises:
        UserError: Ray is missing, or of another version; there is no cluster at `address`, or it asks for
            another token.
    """
    require("ray")
    if address is None:
        # Both are needed, or ray replaces 127.0.0.1 by the machine's public address: the variable for
        # Ray's other processes, the constant because ray may have been imported before.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray
    from ray._private import ray_constants, worker

    for module in part_modules():
        ray.cloudpickle.register_pickle_by_value(module)
    settings: dict[str, Any] = {
        "include_dashboard": False,
        "log_to_driver": logs is None,
        "logging_level": "warning",
    }
    if address is None:
        ray_constants.ENABLE_RAY_CLUSTER = False
        settings |= {"_node_ip_address": "127.0.0.1", "num_cpus": os.cpu_count()}
    # Ray warns at every start that token authentication is on, as it should be.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    printer = worker.print_to_stdstream
    if logs is not None:
        # Ray prints its guesses at why an actor died on standard output, whatever log_to_driver says.
        worker.print_to_stdstream = _writer(logs / "ray.log")
    with ExitStack() as stack:
        stack.callback(setattr, worker, "print_to_stdstream", printer)
        if not ray.is_initialized():
            # Without an address Ray would join any cluster that it finds on this machine.
            terminated = signal.getsignal(signal.SIGTERM)
            with _in_own_sessions():
                if address is not None:
                    _reach(address)
                try:
                    context = ray.init(address=address or "local", **settings)
                except (ConnectionError, ray.exceptions.AuthenticationError) as error:
                    if address is None:
                        raise
                    raise _not_joined(address, error) from error
            if callable(terminated):
                # Ray's own handler ends Ray first and then the driver, without a word.
                signal.signal(signal.SIGTERM, terminated)
            if address is None:
                stack.enter_context(_ends_with_driver(context.address_info["session_dir"]))
        stack.callback(ray.shutdown)
        yield


def _reach(address: str) -> None:
    """Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except OSError as error:
        raise _no_cluster(address, f"{error.strerror or error}") from error


def _no_cluster(address: str, found: str) -> UserError:
    return UserError(
        "there is no Ray cluster to join",
        where=f"cluster.address: {address}",
        found=found,
        remedy="start one (ray start --head), or name its address; null starts one for this run alone",
    )


def _not_joined(address: str, error: BaseException) -> UserError:
    """What Ray says in forty lines."""
    said = []
    cause: BaseException | None = error
    while cause is not None:
        said.append(str(cause))
        cause = cause.__cause__
    if not re.search("auth[ _]?token|authentication", "\n".join(said), re.IGNORECASE):
        return _no_cluster(address, said[0].strip().splitlines()[0])
    return UserError(
        "the Ray cluster does not let this run in",
        where=f"cluster.address: {address}",
        found=_token_found(),
        needed="the token that the cluster was started with",
        remedy="copy it from the cluster's head into the file that RAY_AUTH_TOKEN_PATH names (by default "
        "~/.ray/auth_token), or into RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token",
    )


def _token_found() -> str:
    """Where this machine has a token from, without the token."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return f"RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']}, so no token was shown"
    if "RAY_AUTH_TOKEN" in os.environ:
        return "another token, from RAY_AUTH_TOKEN"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token"))
    if not path.expanduser().is_file():
        return f"no token: there is no {path}"
    return f"another token, from {path}" if path.expanduser().stat().st_size else f"no token: {path} is empty"


def node_address() -> str:
    """The address by which the cluster's other machines know this one."""
    import ray

    address: str = ray.util.get_node_ip_address()
    return address


@contextmanager
def _in_own_sessions() -> Iterator[None]:
    """Ray's processes are not of the driver's group: a signal for the group would end them, while the driver
    may need them to save a checkpoint first."""
    from ray._private import services

    popen = services.ConsolePopen
    services.ConsolePopen = partial(popen, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = popen


@contextmanager
def _ends_with_driver(session: str) -> Iterator[None]:
    """No process of a Ray session outlives the driver for long, and none this context.

    Ray's agents notice that they are alone, but then try for long to tell others.
    """
    guard = guardian.guard_driver(session)
    try:
        yield
    finally:
        guardian.end_family(lambda: guardian.folder_writers(session))
        guard.kill()
        guard.wait()


def _writer(path: Path) -> Callable[[Mapping[str, Any], bool], None]:
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        with path.open("a") as file:
            file.writelines(f"{line}\n" for line in data["lines"])

    return write
