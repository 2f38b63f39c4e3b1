"""Joining a Ray cluster, or starting one that only this machine can reach and that ends with the driver."""

from __future__ import annotations

import os
from typing import Any

from rlpost.config.plugins import part_modules
from rlpost.versions import require


def connect(address: str | None, *, quiet: bool) -> None:
    """Join the Ray cluster at `address`, or start one on this machine, bound to loopback.

    Args:
        quiet: actors write to logs of their own; nothing of them is printed here.

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
    if ray.is_initialized():
        return
    settings: dict[str, Any] = {
        "include_dashboard": False,
        "log_to_driver": not quiet,
        "logging_level": "warning",
    }
    if address is None:
        ray_constants.ENABLE_RAY_CLUSTER = False
        settings |= {"_node_ip_address": "127.0.0.1", "num_cpus": os.cpu_count()}
    ray.init(address=address, **settings)
    if quiet:
        # Ray prints its own guesses on why an actor died to standard output, whatever log_to_driver says.
        worker.global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")


def disconnect() -> None:
    """Leave the cluster; one that `connect` started ends."""
    import ray

    ray.shutdown()
