"""Joining a Ray cluster, or starting one that only this machine can reach and that ends with the driver."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rlpost.cluster import guardian
from rlpost.config.plugins import part_modules
from rlpost.versions import require


@contextmanager
def connected(address: str | None, logs: Path | None) -> Iterator[None]:
    """Join the Ray cluster at `address`, or start one on this machine, bound to loopback; leave it on exit.

    Args:
        logs: the folder for what Ray would print here, when actors have logs of their own there.

    Raises:
        UserError: Ray is missing, or of another version.
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
            context = ray.init(address=address or "local", **settings)
            if callable(terminated):
                # Ray's own handler ends Ray first and then the driver, without a word.
                signal.signal(signal.SIGTERM, terminated)
            if address is None:
                stack.enter_context(_ends_with_driver(context.address_info["session_dir"]))
        stack.callback(ray.shutdown)
        yield


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
