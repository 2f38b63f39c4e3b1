"""RayGroup: members as Ray actors. The only file that imports ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlpost.config.plugins import part_modules
from rlpost.errors import ConfigError, DeadlineError, RlpostError

START_DEADLINE_S = 120.0


def connect(address: str | None) -> None:
    """Join the Ray cluster at `address`, or start one on this machine, bound to loopback."""
    if address is None:
        # Read when ray is first imported: without it, ray replaces 127.0.0.1 by the machine's public address.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "cluster.mode: ray needs Ray, which is not installed",
            where="cluster.mode",
            remedy="pip install 'rlpost[ray]', or set cluster.mode=inline",
        ) from error
    for module in part_modules():
        ray.cloudpickle.register_pickle_by_value(module)
    if ray.is_initialized():
        return
    settings: dict[str, Any] = {"include_dashboard": False, "log_to_driver": True, "logging_level": "warning"}
    if address is None:
        settings |= {"_node_ip_address": "127.0.0.1", "num_cpus": os.cpu_count()}
    ray.init(address=address, **settings)


def disconnect() -> None:
    """Leave the cluster; one that `connect` started ends."""
    import ray

    ray.shutdown()


class RayGroup:
    """Members that are Ray actors; they die with the driver."""

    def __init__(
        self,
        role: str,
        make: Callable[..., Any],
        arguments: Sequence[Mapping[str, object]],
        deadline_s: float,
    ) -> None:
        import ray

        self.role, self.deadline_s = role, deadline_s
        # Ray's own CPU accounting would make actors wait for each other on small machines.
        remote = ray.remote(num_cpus=0, max_restarts=0)(make)
        self.members = [remote.remote(**kwargs) for kwargs in arguments]
        self._get([m.__ray_ready__.remote() for m in self.members], "start", START_DEADLINE_S)

    @property
    def size(self) -> int:
        return len(self.members)

    def call(self, member: int, method: str, *args: object) -> Any:
        reference = getattr(self.members[member], method).remote(*args)
        return self._get([reference], method, self.deadline_s, first=member)[0]

    def call_all(self, method: str, *args: object) -> list[Any]:
        import ray

        shared = [ray.put(argument) for argument in args]
        references = [getattr(member, method).remote(*shared) for member in self.members]
        return self._get(references, method, self.deadline_s)

    def call_each(self, method: str, arguments: Sequence[tuple[object, ...]]) -> list[Any]:
        references = [
            getattr(member, method).remote(*args)
            for member, args in zip(self.members, arguments, strict=True)
        ]
        return self._get(references, method, self.deadline_s)

    def close(self) -> None:
        import ray

        for member in self.members:
            ray.kill(member)
        self.members = []

    def _get(self, references: list[Any], method: str, deadline_s: float, first: int = 0) -> list[Any]:
        """All answers, or the first failure with the member's name on it."""
        import ray

        _, waiting = ray.wait(references, num_returns=len(references), timeout=deadline_s, fetch_local=True)
        answers = []
        for number, reference in enumerate(references, start=first):
            name = f"{self.role} {number}, {method}"
            if reference in waiting and not ray.wait([reference], timeout=0)[0]:
                raise DeadlineError(
                    f"{self.role} {number} did not answer in time",
                    where=name,
                    found=f"no answer after {deadline_s:g} s",
                    remedy="raise cluster.deadline_s if the work is really that long",
                )
            try:
                answers.append(ray.get(reference, timeout=deadline_s))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, RlpostError):
                    raise error.cause from error
                raise
            except ray.exceptions.RayActorError as error:
                reason = str(error).strip().splitlines()
                raise RlpostError(f"{self.role} {number} died", where=name, found=reason[0]) from error
        return answers
