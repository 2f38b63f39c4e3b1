"""The job server of a Ray cluster: found, asked with deadlines, and its refusals in words with a remedy."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpost.errors import DeadlineError, RlpostError, UserError
from rlpost.versions import DEPENDENCIES, require

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

API_ADDRESS, CLUSTER_ADDRESS = "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"
ANSWER_S, UPLOAD_S = 15.0, 300.0
"""Longest silence of a server, in general and while it stores what was packed."""
LOOKUP_S = 60.0
"""For a cluster's own address to be turned into that of its job server."""
TOKEN_REMEDY = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the token that the cluster was "
    "started with (or RAY_AUTH_TOKEN to the token)"
)


class ServerLostError(RlpostError):
    """The job server did not answer; it may when it is asked again."""


def given_address(option: str | None, configured: str | None, variables: Mapping[str, str]) -> str | None:
    """Where the cluster is: --address, `launch.ray.address`, the variables of Ray; None where none says."""
    named = (option, configured, variables.get(API_ADDRESS), variables.get(CLUSTER_ADDRESS))
    found = next((address for address in named if address), None)
    return None if found is None else found.rstrip("/")


def without_secrets(address: str) -> str:
    """A URL without a user's name and password."""
    return re.sub(r"(?<=://)[^/@]*@", "", address)


class JobServer:
    """What rlpost asks of Ray's job API.

    Args:
        address: `http://head:8265`; the address of a cluster, `head:6379`; None for one of this machine.

    Raises:
        UserError: there is no such server, it wants another token, or runs another version of Ray.
    """

    def __init__(self, address: str | None) -> None:
        require("ray")
        if address is None or "://" not in address:
            address = _job_server_of(address)
        self.address = without_secrets(address)
        with self._asked():
            self.client = _client(address)
        version = self.client._server_ray_version
        if version != DEPENDENCIES["ray"].tested:
            raise self._wrong_version(version)

    def submit(self, request: Mapping[str, Any]) -> None:
        """Hand in a job; arguments of Ray's `submit_job`."""
        with self._asked():
            self.client.submit_job(**request)

    def details(self, job: str) -> JobDetails | None:
        """What Ray knows of a job; None where it knows of none."""
        with self._asked():
            try:
                return self.client.get_job_info(job)
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return None
                raise

    def stop(self, job: str) -> None:
        """Tell a job to end; it is killed after its RAY_JOB_STOP_WAIT_TIME_S."""
        with self._asked():
            self.client.stop_job(job)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """What may go wrong when a server is asked, in words."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            wrong = "invalid" in str(error)
            raise UserError(
                "the cluster does not accept the token" if wrong else "the cluster asks for a token",
                where=self.address,
                found="another token than the cluster's" if wrong else _missing_token(os.environ),
                remedy=TOKEN_REMEDY,
            ) from None
        except (ConnectionError, requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            slow = isinstance(error, requests.exceptions.Timeout)
            found = f"no answer within {ANSWER_S:.0f} s" if slow else "nobody listens there"
            if requests.utils.get_environ_proxies(self.address):
                found += "; it was asked through the proxy of this environment (NO_PROXY names exceptions)"
            raise ServerLostError(
                "the job server of the Ray cluster cannot be reached",
                where=self.address,
                found=found,
                remedy="start the cluster (ray start --head --dashboard-host=ADDRESS needs ray[default]), or "
                "name its job server with --address http://HEAD:8265; where only its own machine reaches it: "
                "ssh -L 8265:localhost:8265 HEAD",
            ) from None
        except (requests.exceptions.RequestException, ValueError, KeyError) as error:
            raise self._no_server(error) from None
        except RuntimeError as error:
            if "returned 404" in str(error):
                raise self._no_server("it knows no /api/version") from None
            if old := re.search(r"Ray version (\S+) is running", str(error)):
                raise self._wrong_version(old[1]) from None
            raise RlpostError(
                "the job server of the Ray cluster refused",
                where=self.address,
                found=_brief(str(error)),
                remedy="see dashboard.log in the cluster's session folder, /tmp/ray/session_latest/logs",
            ) from None

    def _wrong_version(self, version: str | None) -> UserError:
        return UserError(
            "the cluster runs another version of Ray",
            where=self.address,
            found=f"Ray {version}",
            needed=f"Ray {DEPENDENCIES['ray'].tested}, as here",
            remedy="start the cluster with that version, such as from the images in docker/",
        )

    def _no_server(self, found: object) -> UserError:
        return UserError(
            "this is no job server of a Ray cluster",
            where=self.address,
            found=_brief(str(found)),
            needed="the address that `ray start --head` prints for the dashboard, such as http://head:8265",
            remedy="name it with --address; the cluster's head needs ray[default]",
        )


def _client(address: str) -> JobSubmissionClient:
    """Ray's client, which of itself waits for ever, and prefers the environment's address to this one."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **settings: Any) -> Any:
            settings.setdefault("timeout", (ANSWER_S, UPLOAD_S if method == "PUT" else ANSWER_S))
            return super()._do_request(method, endpoint, **settings)

    for name in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    before = os.environ.get(API_ADDRESS)
    os.environ[API_ADDRESS] = address
    try:
        return Client(address)
    finally:
        if before is None:
            del os.environ[API_ADDRESS]
        else:
            os.environ[API_ADDRESS] = before


def _job_server_of(cluster: str | None) -> str:
    """The job server of a cluster that is named by its own address, or of the one of this machine.

    Asked in a process of its own, because Ray ends the one that asks when nobody answers.
    """
    script = (
        "import sys; from ray.dashboard.utils import ray_address_to_api_server_url as find;"
        "print('found', find(sys.argv[1] or None))"
    )
    variables = {name: value for name, value in os.environ.items() if name != API_ADDRESS}
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, cluster or ""],
            capture_output=True, text=True, timeout=LOOKUP_S, env=variables, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DeadlineError(
            "the Ray cluster did not say where its job server is",
            where=cluster or "this machine",
            found=f"no answer within {LOOKUP_S:.0f} s",
            remedy="name the job server itself: --address http://HEAD:8265",
        ) from None
    if found := re.search(r"^found (http\S+)$", done.stdout, re.MULTILINE):
        return found[1]
    raise UserError(
        "there is no Ray cluster to launch on",
        where=cluster or "this machine",
        found=_brief(done.stderr.strip().rpartition("\n")[2] or "no cluster is running here"),
        remedy="name the job server of one: --address http://HEAD:8265, or launch.ray.address in the recipe",
    )


def _missing_token(variables: Mapping[str, str]) -> str:
    """Why none was sent."""
    path = variables.get("RAY_AUTH_TOKEN_PATH")
    if variables.get("RAY_AUTH_MODE") != "token":
        return "RAY_AUTH_MODE is not set to token here, so none was sent"
    if path and not Path(path).is_file():
        return f"RAY_AUTH_TOKEN_PATH names no file: {path}"
    return "there is none in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"


def _brief(text: str, limit: int = 300) -> str:
    """The first words of what may be a traceback."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]} ..."
