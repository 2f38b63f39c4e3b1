"""A driver with two Ray actors that each have children; prints what a test wants to know, then waits."""

import os
import subprocess
import sys
import time
from pathlib import Path

from rlpost.cluster import start_cluster
from rlpost.config.schema import ClusterConfig


class Parent:
    """Has a child in its own session and one in another."""

    def children(self):
        return [
            subprocess.Popen(["sleep", "1000"]).pid,
            subprocess.Popen(["sleep", "1000"], start_new_session=True).pid,
        ]

    def work(self):
        time.sleep(1000)


def main(folder):
    with start_cluster(ClusterConfig(mode="ray"), Path(folder) / "logs") as cluster:
        parents = cluster.start_group("parent", Parent, [{}, {}])
        children = [pid for pids in parents.call_all("children") for pid in pids]
        actors = [facts.pid for facts in parents.processes()]
        parents.start(0, "work")
        print(*actors, *children, flush=True)
        print(os.environ.get("RAY_AUTH_MODE"), flush=True)
        time.sleep(1000)


if __name__ == "__main__":
    main(sys.argv[1])
