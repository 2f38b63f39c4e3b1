"""Faults in whole runs: a small recipe on Ray, what the driver sees of its actors, signals at moments."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlpost.config import load_config
from rlpost.monitor import read_metrics
from rlpost.scoring import Scorer

WORKER, LEARNER = "rollout worker", "learner"

RECIPE = """
name: faults
model:
  init: tiny
  tiny: {hidden_size: 32, layers: 2, heads: 1, intermediate_size: 64, max_positions: 64}
data: {task: addition, limit: 200, template: none, max_prompt_tokens: 16}
rewards: FOLDER/digits.py
rollout: {max_response_tokens: 8, slots: 2, workers: 2}
algorithm: grpo
train: {steps: 20, prompts_per_step: 4, samples_per_prompt: 4, learning_rate: 0.001}
evaluation: {problems: 4}
checkpoint: {every: 4, keep: 3}
scoring: {workers: 1}
monitor: {tensorboard: false}
cluster: {mode: ray, threads: 1}
"""

REWARD = """
def reward(completion, answer):
    return 1.0 if completion == answer else 0.2 * min(4, sum(c.isdigit() for c in completion))
"""


def write_recipe(folder: Path, reward: str = REWARD, text: str = RECIPE) -> Path:
    """A recipe, by default of a run of 20 steps, for the command line or `load_config`."""
    (folder / "digits.py").write_text(reward)
    path = folder / "faults.yaml"
    path.write_text(text.replace("FOLDER", str(folder)))
    return path


def recipe(folder: Path, *overrides: str, reward: str = REWARD):
    """The same, as a configuration."""
    return load_config(write_recipe(folder, reward), overrides)


@dataclass(frozen=True)
class Event:
    """A call that the driver is about to start or has just started, or whose answer it has just got.

    Attributes:
        step: the step that is being made, from 1; its last event is the answer to its update.
        pid: of the member's process.
        answer: what came back; None of a call that was started.
    """

    kind: str
    step: int
    role: str
    member: int
    method: str
    pid: int
    answer: object = None


class Faults:
    """Watches the calls of a run in this process, and does harm at chosen moments.

    Attributes:
        struck: the events at which something was done, in order.
        pids: of each member that was called, in the order of its processes, by role and number.
        victims: the processes that were given a signal.
        scored: how often each trajectory was given to the reward functions, by its id.
    """

    def __init__(self, monkeypatch) -> None:
        from rlpost.cluster.ray_group import RayGroup

        self.step = 1
        self.struck: list[Event] = []
        self.pids: dict[tuple[str, int], list[int]] = {}
        self.victims: list[int] = []
        self.scored: Counter[str] = Counter()
        self._planned: list[tuple[Callable[[Event], bool], Callable[[Event], None]]] = []
        start, answer, score = RayGroup.start, RayGroup._answer, Scorer.score

        def watched_start(group, member, method, *args):
            self._saw(group, "starting", member, method)
            call = start(group, member, method, *args)
            self._saw(group, "started", member, method)
            return call

        def watched_answer(group, call):
            value = answer(group, call)
            self._saw(group, "answered", call.member, call.method, value)
            if (call.role, call.member, call.method) == (LEARNER, 0, "update"):
                self.step += 1
            return value

        def watched_score(scorer, trajectories):
            self.scored.update(trajectory.id for trajectory in trajectories)
            return score(scorer, trajectories)

        monkeypatch.setattr(RayGroup, "start", watched_start)
        monkeypatch.setattr(RayGroup, "_answer", watched_answer)
        monkeypatch.setattr(Scorer, "score", watched_score)

    def plan(self, when: Callable[[Event], bool], harm: Callable[[Event], None]) -> None:
        """Do harm at the first event that fits."""
        self._planned.append((when, harm))

    def signal(self, number: signal.Signals, role: str, member: int) -> Callable[[Event], None]:
        """Harm: a signal for the process that a member has at that moment."""

        def harm(event: Event) -> None:
            self.victims.append(self.pids[role, member][-1])
            os.kill(self.victims[-1], number)

        return harm

    def in_call(self, role: str, member: int, method: str, step: int, harm: Callable[[Event], None]) -> None:
        """Do harm to a member that was sent a call and cannot answer it: it is stopped just before."""
        self.plan(calling(role, member, method, step), lambda event: os.kill(event.pid, signal.SIGSTOP))
        self.plan(called(role, member, method, step), harm)

    def left(self) -> list[int]:
        """Members' processes that are still there."""
        return [pid for pids in self.pids.values() for pid in pids if alive(pid)]

    def _saw(self, group, kind: str, member: int, method: str, answer: object = None) -> None:
        pid = next((f.pid for f in group.processes() if f.member == member), -1)
        known = self.pids.setdefault((group.role, member), [])
        if pid not in known:
            known.append(pid)
        event = Event(kind, self.step, group.role, member, method, pid, answer)
        for planned in list(self._planned):
            when, harm = planned
            if when(event):
                self._planned.remove(planned)
                self.struck.append(event)
                harm(event)


def generating(step: int, member: int) -> Callable[[Event], bool]:
    """A worker has reported some responses of a step, and has others unfinished."""
    polled = _moment("answered", WORKER, member, "poll", step)
    return lambda event: polled(event) and event.answer.unfinished > 0


def calling(role: str, member: int, method: str, step: int) -> Callable[[Event], bool]:
    """A member is about to be called in a step."""
    return _moment("starting", role, member, method, step)


def called(role: str, member: int, method: str, step: int) -> Callable[[Event], bool]:
    """A member was called in a step; it may answer before harm is done (`Faults.in_call`)."""
    return _moment("started", role, member, method, step)


def _moment(*wanted) -> Callable[[Event], bool]:
    """Kind, role, member, method, and the first step that counts."""
    return lambda event: (
        (event.kind, event.role, event.member, event.method) == wanted[:4] and event.step >= wanted[4]
    )


def alive(pid: int) -> bool:
    """Whether a process is there and does not merely wait for its parent to take note of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def below(pid: int) -> list[int]:
    """The ids of all descendants of a process."""
    # The kernel's lists of children miss some while others come and go.
    parents = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended
            if entry.name.isdecimal():
                stat = (entry / "stat").read_text()
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found, generation = [], [pid]
    while generation := [child for child, parent in parents.items() if parent in generation]:
        found += generation
    return found


def records(run: Path) -> dict[int, list[dict]]:
    """What each step sampled, as it was written down."""
    return {
        int(path.stem.removeprefix("step-")): [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(run.glob("rollouts/step-*.jsonl"))
    }


def asked(run: Path) -> dict[int, list[str]]:
    """The ids of each step's samples, which name step, prompt and number."""
    return {step: [record["id"] for record in found] for step, found in records(run).items()}


def tokens(run: Path) -> dict[int, list[list[int]]]:
    """The tokens of each step's samples."""
    return {
        step: [turn["token_ids"] for record in found for turn in record["turns"]]
        for step, found in records(run).items()
    }


def column(run: Path, name: str) -> list[float]:
    """A metric, step by step."""
    return [row[name] for row in read_metrics(run)]
