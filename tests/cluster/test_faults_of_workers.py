"""Rollout workers and scorers that are killed or stopped in a real run, which goes on and ends right."""

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from fault_runs import (
    LEARNER,
    WORKER,
    Faults,
    alive,
    asked,
    below,
    called,
    calling,
    column,
    generating,
    recipe,
    records,
    tokens,
)

from rlpost.training import train

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.timeout(900),
]

CORRECTED = "algorithm={base: grpo, correction: [{truncated: {}}]}"

HELD = """
import os
import time
from pathlib import Path

HERE = Path(__file__).parent


def reward(completion, answer):
    if (HERE / "hold").exists():
        (HERE / "hold").unlink()
        (HERE / "holding").write_text(f"{os.getppid()} {os.getpid()}")
        (HERE / "holding").rename(HERE / "held")
        time.sleep(600)
    return 1.0 if completion == answer else 0.2 * min(4, sum(c.isdigit() for c in completion))
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same run in one process, where nothing can be lost."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return train(recipe(folder, "cluster.mode=inline", "rollout.workers=1"), folder / "run")


def assert_the_run_is_whole(run: Path, faults: Faults, undisturbed: Path) -> None:
    """Every prompt of an undisturbed run at its step, every sample scored once, and nobody left."""
    assert json.loads((run / "summary.json").read_text())["steps"] == 20
    assert column(run, "step") == list(range(1, 21))
    assert asked(run) == asked(undisturbed)
    assert faults.scored == Counter(name for names in asked(undisturbed).values() for name in names)
    assert faults.left() == [] and not any(alive(pid) for pid in faults.victims)


def test_workers_killed_and_stopped_in_generation_in_a_sync_and_while_idle_change_no_sample_and_no_loss(
    undisturbed, tmp_path, monkeypatch, capfd
):
    faults = Faults(monkeypatch)
    for number, step, one, other in ((signal.SIGKILL, 3, 0, 1), (signal.SIGSTOP, 11, 1, 0)):
        faults.plan(generating(step, one), faults.signal(number, WORKER, one))
        faults.in_call(WORKER, other, "load_weights", step + 3, faults.signal(number, WORKER, other))
        faults.plan(called(LEARNER, 0, "update", step + 6), faults.signal(number, WORKER, one))
    run = train(recipe(tmp_path, "cluster.hang_deadline_s=10"), tmp_path / "run")
    assert len(set(faults.victims)) == 6
    printed = "".join(capfd.readouterr())
    calls = []
    for index, pid in enumerate(faults.victims):
        ending = "died" if index < 3 else "is silent"
        found = re.search(rf"rollout worker \d {ending}\n  where:  (\w+), on .*, process {pid}\n", printed)
        assert found, (index, pid, printed)
        calls.append(found[1])
    assert calls == ["poll", "load_weights", "load_weights"] * 2, calls
    assert sum(column(run, "rollout/worker_restarts")) >= 6
    assert sum(column(run, "rollout/resubmitted_samples")) >= 2
    assert_the_run_is_whole(run, faults, undisturbed)
    assert tokens(run) == tokens(undisturbed)
    for name in ("policy/loss", "reward/mean"):
        assert column(run, name) == pytest.approx(column(undisturbed, name), abs=1e-5)


def test_workers_and_scorers_killed_while_samples_are_drawn_ahead_lose_no_prompt(
    undisturbed, tmp_path, monkeypatch
):
    faults, killed = Faults(monkeypatch), []
    faults.plan(called(WORKER, 1, "load_weights", 5), faults.signal(signal.SIGKILL, WORKER, 1))
    faults.plan(called(LEARNER, 0, "update", 8), faults.signal(signal.SIGKILL, WORKER, 0))
    for step, place in ((11, 1), (15, 0)):
        faults.plan(
            called(LEARNER, 0, "update", step), lambda _, place=place: kill_scorer(tmp_path, place, killed)
        )
    overrides = ("train.max_staleness=1", "rollout.slots=1", "scoring.deadline_s=120", CORRECTED)
    run = train(recipe(tmp_path, *overrides, reward=HELD), tmp_path / "run")
    assert len(faults.victims) == len(killed) == 2
    assert not any(alive(pid) for pid in killed)
    assert sum(column(run, "rollout/worker_restarts")) >= 2
    assert sum(column(run, "rollout/resubmitted_samples")) > 0
    assert max(column(run, "rollout/version_lag_max")) == 1
    assert_the_run_is_whole(run, faults, undisturbed)

    failed = [(step, r) for step, found in records(run).items() for r in found if r["outcome"] != "scored"]
    assert [(r["outcome"], r["reward"]) for _, r in failed] == [("error", None)] * 2
    assert "killed by SIGKILL" in failed[0][1]["note"]
    # The scoring process ends with its supervisor, and either end may be seen first.
    assert failed[1][1]["note"] in ("the worker's supervisor process ended", "the worker process ended")
    for step in range(1, 21):
        lost = sum(at == step for at, _ in failed)
        for name, count in (
            ("scoring/error", lost), ("rollout/dropped_samples", lost), ("scoring/scored", 16 - lost),
        ):  # fmt: skip
            assert column(run, name)[step - 1] == count


def kill_scorer(folder: Path, place: int, killed: list[int]) -> None:
    """Kill the next process that scores (`place` 1), or the one that supervises it (0)."""

    def wait_and_kill() -> None:
        end = time.monotonic() + 120
        while not (folder / "held").exists() and time.monotonic() < end:
            time.sleep(0.02)
        killed.append(int((folder / "held").read_text().split()[place]))
        (folder / "held").unlink()
        os.kill(killed[-1], signal.SIGKILL)

    (folder / "hold").touch()
    threading.Thread(target=wait_and_kill, daemon=True).start()


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_a_vllm_engine_that_is_killed_or_stopped_and_a_killed_worker_are_replaced(
    undisturbed, tmp_path, monkeypatch, capfd
):
    faults, engines, families = Faults(monkeypatch), [], []

    def strike(number, *, the_engine):
        def harm(event):
            worker = faults.pids[WORKER, 0][-1]
            families.extend([worker, *below(worker)])
            engines.append(engine_of(worker))
            os.kill(engines[-1] if the_engine else worker, number)

        return harm

    # Before it hears of the step's requests, so that it cannot have answered all of them when it dies.
    faults.plan(calling(WORKER, 0, "submit", 3), strike(signal.SIGSTOP, the_engine=True))
    faults.plan(generating(3, member=0), lambda _: os.kill(engines[0], signal.SIGKILL))
    faults.in_call(WORKER, 0, "load_weights", 8, strike(signal.SIGKILL, the_engine=False))
    faults.plan(calling(WORKER, 0, "submit", 13), strike(signal.SIGSTOP, the_engine=True))
    overrides = (
        "rollout.engine=vllm",
        "rollout.workers=1",
        "rollout.vllm={stall_deadline_s: 10, max_model_len: 64, kv_cache_gib: 0.1}",
        "evaluation.problems=1",
    )
    run = train(recipe(tmp_path, *overrides), tmp_path / "run")
    assert len(set(engines)) == 3
    assert not any(alive(pid) for pid in families)
    printed = "".join(capfd.readouterr())
    where = rf"(add|step|between two calls), process {engines[0]}"
    assert re.search(rf"the vLLM engine died\n  where:  {where}\n", printed), printed[-4000:]
    assert re.search(r"rollout worker 0 died\n  where:  load_weights, ", printed)
    assert f"the vLLM engine made no progress\n  where:  step, processes {engines[2]}\n" in printed
    assert sum(column(run, "rollout/worker_restarts")) == 3
    assert sum(column(run, "rollout/resubmitted_samples")) >= 2
    assert_the_run_is_whole(run, faults, undisturbed)


def engine_of(worker: int) -> int:
    """The engine process that a worker's process started."""
    until = time.monotonic() + 30
    while True:
        # What the system says of processes is not all of one moment, so it may miss one that is there.
        found = [pid for pid in below(worker) if b"EngineCore" in command_of(pid)]
        if len(found) == 1:
            return found[0]
        assert time.monotonic() < until, f"{len(found)} engines below {worker}"
        time.sleep(0.05)


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""
