"""One node of a run's own Ray cluster, for launchers that bring machines and no Ray, such as Slurm.

What Slurm asks of a job it asks by signals to all its processes at once. Here they are blocked, which every
process of Ray and of the run inherits, so that none ends while the driver saves a checkpoint.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from rlpost.errors import DeadlineError, RlpostError
from rlpost.machine import own_address
from rlpost.processes import PR_SET_CHILD_SUBREAPER, child_processes, kill_children, prctl
from rlpost.versions import require

NOTICES = (signal.SIGTERM, signal.SIGUSR1)
"""The run is to save a checkpoint and to end."""
END = signal.SIGUSR2
"""The run is over."""
POLL_S = 1.0
END_DEADLINE_S = 20.0
"""For the kernel to end what was killed."""


def main(arguments: Sequence[str]) -> int:
    """Be a node until told to end, then leave no process and no file; the exit status."""
    parser = argparse.ArgumentParser("rlpost launch ray-node", description=__doc__)
    parser.add_argument("--name", required=True, help="what the launcher calls this machine")
    parser.add_argument(
        "--head", required=True, metavar="ADDRESS:PORT", help="of the first node, which serves it"
    )
    parser.add_argument("--cpus", type=int, help="of this machine that are the run's; all without it")
    parser.add_argument("--deadline", type=float, default=600.0, help="seconds to wait for the first node")
    parser.add_argument("--tell", type=int, metavar="PID", help="gets SIGUSR1 for every notice to end")
    chosen = parser.parse_args(arguments)
    require("ray")
    signal.pthread_sigmask(signal.SIG_BLOCK, [*NOTICES, END, signal.SIGCHLD])
    for notice in NOTICES:  # a script may have had them ignored until here, and then nobody could take them
        signal.signal(notice, signal.SIG_DFL)
    # What actors leave behind becomes a child of this process, and ends with it.
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    folder = tempfile.mkdtemp(prefix="rlpost-ray-", dir="/tmp")  # sockets in it: longer paths are refused
    try:
        # A process of its own, because Ray may wait for the head for long and hears nothing meanwhile.
        ray = os.fork()
        if not ray:
            os._exit(_be_ray(chosen, folder))
        return supervise(ray, chosen.tell)
    finally:
        end = time.monotonic() + END_DEADLINE_S
        while child_processes() and time.monotonic() < end:
            kill_children()
        shutil.rmtree(folder, ignore_errors=True)


def supervise(ray: int, told: int | None) -> int:
    """Until `END` comes, or the child `ray` ends; the exit status. Notices go to the process `told`."""
    while True:
        taken = signal.sigtimedwait([*NOTICES, END, signal.SIGCHLD], POLL_S)
        if taken is not None and taken.si_signo == END:
            return 0
        if taken is not None and taken.si_signo in NOTICES and told is not None:
            with suppress(ProcessLookupError):
                os.kill(told, signal.SIGUSR1)
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == ray:
                return max(1, os.waitstatus_to_exitcode(status))
            if not pid:
                break


def _be_ray(chosen: argparse.Namespace, folder: str) -> int:
    """Ray's processes and who starts them, until one of them dies; the exit status."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [END, signal.SIGCHLD])
        node = start(chosen, folder)
        print(f"{chosen.name} is a node of the Ray cluster at {chosen.head}", flush=True)
        while not (dead := node.dead_processes()):
            time.sleep(POLL_S)
        names = ", ".join(f"{kind} with status {process.returncode}" for kind, process in dead)
        raise RlpostError(f"Ray's processes on {chosen.name} have ended: {names}")
    except RlpostError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_status
    except BaseException:
        traceback.print_exc()
        return 1


def start(chosen: argparse.Namespace, folder: str) -> Any:
    """Ray's processes of this machine, and the whole cluster's where the head's address is of this machine.

    Raises:
        RlpostError: they did not start; in one line, with Ray's own words.
    """
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    host, _, port = chosen.head.rpartition(":")
    address = own_address(host)
    is_head = address == host
    # Ports that are not named are free ones. No client server, no dashboard: nobody else is to come.
    parameters = RayParams(
        node_ip_address=address,
        node_name=chosen.name,
        temp_dir=folder,
        num_cpus=chosen.cpus or len(os.sched_getaffinity(0)),
        include_dashboard=False,
        dashboard_agent_listen_port=0,
        no_monitor=True,
        include_log_monitor=False,
    )
    if is_head:
        parameters.update(gcs_server_port=int(port))
    else:
        parameters.update(gcs_address=chosen.head)
        _await_head(host, int(port), chosen.deadline)
    try:
        return Node(parameters, head=is_head, shutdown_at_exit=False, spawn_reaper=True)
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise RlpostError(f"Ray did not start on {chosen.name} ({address}): {words}") from error


def _await_head(host: str, port: int, deadline_s: float) -> None:
    end, reason = time.monotonic() + deadline_s, ""
    while time.monotonic() < end:
        try:
            socket.create_connection((host, port), timeout=5.0).close()
            return
        except OSError as error:
            reason = str(error)
            time.sleep(0.2)
    raise DeadlineError(
        f"the first node's Ray at {host}:{port} cannot be reached for {deadline_s:g} s: {reason}"
    )
