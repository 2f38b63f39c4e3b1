"""A Ray cluster of several machines, with token authentication and a job server."""

import os
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "cluster"))

from virtual_hosts import virtual_hosts

PATIENCE_S = 400
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
TOKEN = "for-these-hosts-alone"


class RayHosts:
    """Hosts that Ray runs on; the first is the head.

    Attributes:
        hosts: as from `virtual_hosts`.
        address: of the job server.
        environment: for processes of the cluster's users.
    """

    def __init__(self, hosts, folder, root):
        self.hosts, self.logs = hosts, folder
        self.address = f"http://{hosts[0].address}:8265"
        token = folder / "token"
        token.write_text(TOKEN)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = kept | {
            "PYTHONPATH": str(root),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "HF_HUB_OFFLINE": "1",
            "NO_PROXY": "*",
            "no_proxy": "*",
        }
        # A machine that is switched off is noticed within seconds, not half a minute.
        quick = {"period_ms": "1000", "timeout_ms": "4000", "failure_threshold": "3"}
        self._started = self.environment | {f"RAY_health_check_{k}": v for k, v in quick.items()}
        self._nodes = {}
        self.await_nodes(hosts[:1])
        self.await_nodes(hosts)

    def start(self, host):
        head = self.hosts[0]
        where = [f"--address={head.address}:6379"]
        if host is head:
            where = ["--head", "--port=6379", f"--dashboard-host={head.address}", "--include-dashboard=true"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--block", "--num-cpus=2"]
        command += [f"--node-ip-address={host.address}", "--disable-usage-stats"]
        command += ["--object-store-memory=150000000"]
        with (self.logs / f"{host.name}.log").open("a") as log:
            self._nodes[host] = host.popen(command, env=self._started, stdout=log, stderr=log)

    def await_nodes(self, hosts):
        """Until the job server sees as many nodes; a node that is slow to start is given up by Ray."""
        end = time.monotonic() + PATIENCE_S
        while self.count() < len(hosts):
            for host in hosts:
                if host not in self._nodes or self._nodes[host].poll() is not None:
                    self.start(host)
            said = {path.name: path.read_text()[-1500:] for path in self.logs.glob("*.log")}
            assert time.monotonic() < end, said
            time.sleep(0.5)

    def count(self):
        """Living nodes, as far as the job server can say."""
        request = urllib.request.Request(
            f"{self.address}/nodes?view=summary", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        try:
            with DIRECT.open(request, timeout=10) as answer:
                return answer.read().decode().count('"state": "ALIVE"')
        except (urllib.error.URLError, OSError):
            return 0


@contextmanager
def ray_hosts(names, folder, root):
    """As `RayHosts`; everything ends on exit."""
    with virtual_hosts(names) as hosts:
        yield RayHosts(hosts, folder, root)
