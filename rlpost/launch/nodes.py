"""Waiting for all nodes of a Ray cluster, and saying which are missing and what is known of them.

python -m rlpost.launch.nodes --address 10.0.0.1:20007 --deadline 600 node01=PID node02 --then COMMAND
"""

from __future__ import annotations

import argparse
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpost.errors import DeadlineError, RlpostError
from rlpost.training.status import write_ended

POLL_S = 0.5
ANSWER_S = 5.0
"""For one answer of Ray, and of a command that knows of a node."""
REPORT_EVERY_S = 30.0
TAIL_LINES = 5
RESOURCE = "GPU"


@dataclass(frozen=True)
class Expected:
    """A node that is to come.

    Attributes:
        name: that it registers with.
        starter: a process of this machine that ends when the node cannot come any more; None for none.
    """

    name: str
    starter: int | None = None

    @property
    def given_up(self) -> bool:
        """Whether its starter has ended."""
        return self.starter is not None and not Path(f"/proc/{self.starter}").exists()


@dataclass(frozen=True)
class Sources:
    """Where to look for what is known of a missing node.

    Attributes:
        logs: the folder with `ray-<name>.log` of each; None for none.
        explain: a command that says how a node stands, the name being its last word; "" for none.
    """

    logs: Path | None = None
    explain: str = ""

    def lines(self, name: str) -> list[str]:
        """All that is known; not empty."""
        found = []
        if self.logs is not None:
            log = self.logs / f"ray-{name}.log"
            text = log.read_text(errors="replace") if log.is_file() else ""
            tail = [line for line in text.splitlines() if line.strip()][-TAIL_LINES:]
            found += [f"{log} ends with:", *(f"  {line}" for line in tail)] if tail else [f"{log} is empty"]
        if self.explain:
            found.append(f"{self.explain} {name}: {_answer([*shlex.split(self.explain), name])}")
        return found or ["nothing is known of it"]


def await_nodes(
    nodes: Sequence[Expected], address: str, deadline_s: float, accelerators: int, sources: Sources
) -> None:
    """Return once every node is there, with its accelerators.

    What is known of missing nodes is printed; the error is one line that names them.

    Args:
        address: of the cluster's head.
        accelerators: how many each node must have.

    Raises:
        DeadlineError: nodes did not come in time.
        RlpostError: nodes cannot come any more, or have too few accelerators.
    """
    start = reported = time.monotonic()
    _say(f"waiting for {_count(len(nodes))} of the Ray cluster at {address}: {_names(nodes)}")
    while True:
        there = registered(address)
        missing = [node for node in nodes if node.name not in there]
        if not missing:
            break
        waited = time.monotonic() - start
        ended = [node for node in missing if node.given_up]
        if ended or waited >= deadline_s:
            _tell(ended or missing, sources)
            if ended:
                raise RlpostError(f"{_count(len(ended))} of {len(nodes)} could not start: {_names(ended)}")
            raise DeadlineError(
                f"{_count(len(missing))} of {len(nodes)} did not come within {deadline_s:g} s "
                f"(launch.start_deadline_s): {_names(missing)}"
            )
        if time.monotonic() - reported > REPORT_EVERY_S:
            reported = time.monotonic()
            _say(f"still waiting after {waited:.0f} s for {_names(missing)}")
        time.sleep(POLL_S)
    _say(f"{'all' if len(nodes) > 1 else 'it'} came within {time.monotonic() - start:.0f} s")
    poor = {node.name: there[node.name] for node in nodes if there[node.name] < accelerators}
    if poor:
        seen = ", ".join(f"{name} {count}" for name, count in poor.items())
        raise RlpostError(
            f"machines.accelerators asks for {accelerators} on each node, and Ray sees fewer: {seen}"
        )


def registered(address: str) -> Mapping[str, int]:
    """The nodes that are alive, by name, with their accelerators; none while the head does not answer."""
    client = _client(address)
    if client is None:
        return {}
    try:
        found = client.get_all_node_info(timeout=ANSWER_S)
    except Exception:  # Ray has many for a head that is not there yet
        return {}
    return {
        info.node_name: int(info.resources_total.get(RESOURCE, 0))
        for info in found.values()
        if info.state == type(info).ALIVE
    }


def _client(address: str) -> Any:
    """A client of the head; None while nobody listens there, for which Ray itself would wait."""
    from ray._raylet import GcsClient

    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
        return GcsClient(address=address)
    except Exception:  # Ray has many for a head that is only half there
        return None


def _answer(command: Sequence[str]) -> str:
    """What a command prints, in one line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no answer: {error}"
    return " ".join((done.stdout.strip() or done.stderr).split()) or "no answer"


def _tell(missing: Sequence[Expected], sources: Sources) -> None:
    for node in missing:
        _say(f"{node.name} is missing:")
        for line in sources.lines(node.name):
            _say(f"  {line}")


def _count(number: int) -> str:
    return f"{number} node{'s' if number > 1 else ''}"


def _names(nodes: Sequence[Expected]) -> str:
    return ", ".join(node.name for node in nodes)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> None:
    """The command line of `await_nodes`; once all are there, the words after `--then` take this process over.

    Raises:
        RlpostError: as of `await_nodes`.
    """
    parser = argparse.ArgumentParser("rlpost launch await-nodes", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "nodes", nargs="+", metavar="NAME[=PID]", help="a node, and the process that starts it"
    )
    parser.add_argument("--address", required=True, metavar="ADDRESS:PORT", help="of the cluster's head")
    parser.add_argument("--deadline", type=float, default=600.0, metavar="SECONDS")
    parser.add_argument("--accelerators", type=int, default=0, help="that each node must have")
    parser.add_argument("--logs", type=Path, help="the folder with ray-NAME.log of each node")
    parser.add_argument("--run", type=Path, help="the run directory, whose run.json is to say how it ended")
    parser.add_argument("--explain", default="", help="a command that says how a node stands, given its name")
    parser.add_argument("--then", nargs=argparse.REMAINDER, default=[], help="a command")
    chosen = parser.parse_args(arguments)
    nodes = []
    for text in chosen.nodes:
        name, _, starter = text.partition("=")
        nodes.append(Expected(name, int(starter) if starter else None))
    sources = Sources(chosen.logs, chosen.explain)
    try:
        await_nodes(nodes, chosen.address, chosen.deadline, chosen.accelerators, sources)
    except RlpostError as error:
        if chosen.run is not None:
            write_ended(chosen.run, "failed", error.exit_status, str(error))
        raise
    if chosen.then:
        os.execvp(chosen.then[0], chosen.then)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except RlpostError as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(failure.exit_status)
