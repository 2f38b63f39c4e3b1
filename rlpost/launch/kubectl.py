"""The command kubectl, each call of it with a deadline."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Sequence
from functools import partial
from typing import Any

from rlpost.errors import DeadlineError, RlpostError, UserError
from rlpost.processes import PR_SET_PDEATHSIG, prctl

ANSWER_S = 60.0
"""For one answer of the API server, its own retries included."""


class KubectlError(RlpostError):
    """kubectl refused, or did not reach the cluster."""


class Kubectl:
    """Calls kubectl for one namespace.

    Raises:
        UserError: kubectl is not installed here.
    """

    def __init__(self, namespace: str) -> None:
        if shutil.which("kubectl") is None:
            raise UserError(
                "kubectl is not installed on this machine",
                where="rlpost launch kubernetes",
                remedy="install it, or print the manifests with --dry-run and apply them elsewhere",
            )
        self.namespace = namespace

    def command(self, *arguments: str) -> list[str]:
        """As one would type it."""
        return ["kubectl", "--namespace", self.namespace, *arguments]

    def call(self, *arguments: str) -> str:
        """What a command prints.

        Raises:
            KubectlError: it fails.
            DeadlineError: it gives no answer within a minute.
        """
        command = self.command(*arguments)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
        except subprocess.TimeoutExpired:
            raise DeadlineError(
                "kubectl gives no answer",
                where=" ".join(command),
                found=f"nothing within {ANSWER_S:g} s",
                remedy="see whether the cluster is reached: kubectl cluster-info",
            ) from None
        if done.returncode:
            raise self._refused(command, done.stderr or done.stdout)
        return done.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """An object or a list; empty where there is none of that name."""
        text = self.call("get", "--ignore-not-found", "--output", "json", *arguments)
        found: dict[str, Any] = json.loads(text) if text.strip() else {}
        return found

    def follow(self, *arguments: str) -> int:
        """Let a command print to this terminal until it ends; its exit status."""
        ends_with_us = partial(prctl, PR_SET_PDEATHSIG, signal.SIGTERM)
        return subprocess.run(self.command(*arguments), check=False, preexec_fn=ends_with_us).returncode

    def _refused(self, command: Sequence[str], text: str) -> KubectlError:
        words = " ".join(text.split())
        remedy = "see whether kubectl knows the cluster: kubectl config current-context"
        if "no matches for kind" in words or "ensure CRDs are installed" in words:
            remedy = "install the KubeRay operator 1.5.1 or newer in the cluster; it brings the kind RayJob"
        elif "forbidden" in words.lower():
            remedy = f"ask for the right to make RayJobs and ConfigMaps in the namespace {self.namespace}"
        elif "namespaces" in words and "not found" in words:
            remedy = f"kubectl create namespace {self.namespace}, or set launch.kubernetes.namespace"
        return KubectlError(
            "kubectl refuses",
            where=" ".join(command),
            found=words[:1000] or "no reason is given",
            remedy=remedy,
        )
