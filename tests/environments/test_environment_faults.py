"""Environments that hang, raise, block and crash: what they cost, and that nothing of them stays."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from environment_contract import answers, says

from rlpost.config.schema import EnvironmentConfig
from rlpost.environments import EnvironmentHost, Failed, Observation, Opened

FAULTY = '''
import asyncio
import os
import re
import sys
import time


class Faulty:
    """Does what the row, and then the message, says."""

    def reset(self, task, seed):
        self.kind = task.get("kind", "")

    def step(self, message):
        return self.act(self.kind or message["content"])

    def act(self, kind):
        if kind == "hang in a thread":
            time.sleep(1000)
        if kind in ("hang in the loop", "deaf", "hang in the executor", "block", "exit in the loop"):
            return self.later(kind)
        if kind == "backtrack":
            re.match(r"(a+)+$", "a" * 50 + "b")
        if kind == "raise":
            raise LookupError("no such thing")
        if kind == "quit":
            sys.exit("that is all")
        if kind == "crash":
            os._exit(3)
        if kind == "print":
            print("{}" * 100_000)
            os.write(2, b"\\xff\\n" * 1000)
        if kind == "child":
            os.system("sleep 1000 & (setsid sleep 1000 &)")
        if kind in ("nan", "number", "words", "silence", "system"):
            return {
                "nan": ("x", float("nan"), False),
                "number": 7,
                "words": ("x", 1.0, False, {"score": "high"}),
                "silence": ([], 1.0, False),
                "system": ([{"role": "system", "content": "x"}], 0, False),
            }[kind]
        return "fine", 1.0, kind == "done"

    async def later(self, kind):
        if kind == "exit in the loop":
            raise SystemExit(4)
        if kind == "block":
            time.sleep(1000)
        if kind == "hang in the executor":
            await asyncio.to_thread(time.sleep, 1000)
        while True:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                if kind != "deaf":
                    raise
'''


def _at(code: str, function: str, occurrence: int = 0) -> str:
    """Where the file has a line of code, as notes say it."""
    lines = [number for number, line in enumerate(FAULTY.splitlines(), 1) if line.strip() == code]
    return f"faulty.py:{lines[occurrence]} in {function}"


TASK = {"messages": [{"role": "user", "content": "Begin."}]}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("faulty") / "faulty.py"
    path.write_text(FAULTY)
    return f"{path}:Faulty"


@pytest.fixture
def hosts():
    """Makes hosts; all are closed at the end, and nothing of them is left."""
    made = []
    before = set(_family(os.getpid()))  # other tests of this process may have left a server of theirs

    def make(name: str, **limits) -> EnvironmentHost:
        made.append(EnvironmentHost(EnvironmentConfig(name=name, **limits)))
        return made[-1]

    yield make
    for host in made:
        host.close()
    assert set(_family(os.getpid())) <= before


def _family(pid: int) -> list[int]:
    """The descendants of a process."""
    found = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended
            for child in map(int, tasks.read_text().split()):
                found += [child, *_family(child)]
    return found


def _ask(host: EnvironmentHost, *kinds: str) -> list:
    """What fresh episodes answer to a message each, all at the same time."""
    names = [f"{kind} {number}" for number, kind in enumerate(kinds)]
    for name in names:
        host.open(name, TASK, 0)
    assert all(isinstance(answer, Opened) for answer in answers(host, *names))
    for name, kind in zip(names, kinds, strict=True):
        host.act(name, says(kind))
    return answers(host, *names)


def _wait_until_replaced(host: EnvironmentHost, processes: int) -> None:
    deadline = time.monotonic() + 60
    while host.replaced < processes and time.monotonic() < deadline:
        host.take(0.1)
    assert host.replaced == processes


def test_what_raises_or_answers_wrongly_is_an_error_that_says_where(faulty, hosts):
    host = hosts(faulty)
    kinds = (
        "raise",
        "quit",
        "exit in the loop",
        "nan",
        "number",
        "words",
        "silence",
        "system",
        "print",
        "done",
    )
    *failed, printed, done = _ask(host, *kinds)
    assert [getattr(answer, "outcome", answer) for answer in failed] == ["error"] * 8
    notes = [answer.note for answer in failed]
    assert (
        notes[0].startswith("LookupError: no such thing\n")
        and _at('raise LookupError("no such thing")', "act") in notes[0]
    )
    assert "SystemExit: that is all" in notes[1] and "SystemExit: 4" in notes[2]
    assert _at("raise SystemExit(4)", "later") in notes[2]
    assert "the reward is nan, which is not finite" in notes[3]
    assert (
        "`step` returns an Observation, (text, reward, done) or (text, reward, done, info), not 7" in notes[4]
    )
    assert "info['score'] is a number, not 'high'" in notes[5]
    assert "no message for the model" in notes[6] and "'system'" in notes[7]
    assert printed == Observation(({"role": "user", "content": "fine"},), 1.0)
    assert done.done
    assert (host.stats.errors, host.stats.done, host.replaced) == (8, 1, 0)


def test_a_crash_costs_the_episodes_of_its_process_and_says_so(faulty, hosts):
    host = hosts(faulty)
    host.open("idle", TASK, 0)
    answers(host, "idle")
    (failed,) = _ask(host, "crash")
    assert (
        failed.outcome == "error" and "the process of the environment ended with exit code 3" in failed.note
    )
    host.act("idle", says("done"))
    (lost,) = answers(host, "idle")
    assert lost.outcome == "error" and "this one is not to blame" in lost.note
    assert isinstance(_ask(host, "done")[0], Observation)
    assert host.replaced == 1 and host.open_episodes == 0


def test_episodes_beyond_the_concurrency_wait_their_turn(faulty, hosts):
    host = hosts(faulty, concurrency=2)
    for name in "abc":
        host.open(name, TASK, 0)
    answers(host, "a", "b")
    assert host.take(0.3) == [] and host.open_episodes == 3 and host.stats.opened == 2
    host.act("a", says("done"))
    assert answers(host, "a", "c")[0].done
    host.drop("b")
    assert host.open_episodes == 1 and host.stats.opened == 3


def test_a_row_that_cannot_be_sent_fails_alone(faulty, hosts):
    host = hosts(faulty)
    host.open("bad", {**TASK, "row": lambda: 0}, 0)
    assert "cannot be sent to its process" in answers(host, "bad")[0].note
    assert isinstance(_ask(host, "done")[0], Observation)


@pytest.mark.slow
def test_of_64_environments_those_that_hang_and_raise_fail_and_the_others_end(faulty, hosts):
    host = hosts(faulty, turn_deadline_s=4.0, concurrency=64, processes=2)
    kinds = ["hang in a thread"] * 3 + ["hang in the loop"] * 3 + ["raise"] * 6 + [""] * 52
    for number, kind in enumerate(kinds):
        host.open(str(number), {**TASK, "kind": kind}, number)
    waiting, turns, ended = set(map(str, range(64))), Counter(), {}
    started = time.monotonic()
    while waiting:
        for name, answer in host.take(10.0):
            turns[name] += 1
            if isinstance(answer, Failed) or (isinstance(answer, Observation) and answer.done):
                ended[name] = answer
                waiting.discard(name)
            else:
                host.act(name, says("done" if turns[name] == 5 else "on"))
        assert time.monotonic() < started + 60
    outcomes = Counter(getattr(answer, "outcome", "done") for answer in ended.values())
    assert outcomes == {"timeout": 6, "error": 6, "done": 52}
    assert (host.stats.timeouts, host.stats.errors, host.stats.done) == (6, 6, 52)
    places = (_at("time.sleep(1000)", "act"), _at("await asyncio.sleep(1000)", "later"))
    for number in range(6):
        assert "no answer within 4 s; it was at" in ended[str(number)].note
        assert places[number // 3] in ended[str(number)].note
    assert all(turns[str(number)] == 6 for number in range(12, 64))
    assert host.open_episodes == 0
    assert isinstance(_ask(host, "done")[0], Observation)
    _wait_until_replaced(host, 2)  # each had a thread that cannot be ended


@pytest.mark.slow
def test_a_process_with_code_that_cannot_be_ended_lets_its_others_end_and_is_replaced(faulty, hosts):
    host = hosts(faulty, turn_deadline_s=2.0)
    host.open("good", TASK, 0)
    answers(host, "good")
    failed = _ask(host, "hang in the executor", "deaf", "hang in a thread", "child")[:3]
    assert [answer.outcome for answer in failed] == ["timeout"] * 3
    host.act("good", says("on"))
    assert isinstance(answers(host, "good")[0], Observation)
    assert isinstance(_ask(host, "done")[0], Observation)
    host.act("good", says("done"))
    assert answers(host, "good")[0].done
    host.drop("child 3")
    _wait_until_replaced(host, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("block", _at("time.sleep(1000)", "later", 1)),
        ("backtrack", _at('re.match(r"(a+)+$", "a" * 50 + "b")', "act")),
    ],
)
def test_code_that_blocks_all_episodes_is_ended_and_only_it_is_to_blame(faulty, hosts, kind, place):
    host = hosts(faulty, turn_deadline_s=2.0)
    host.open("idle", TASK, 0)
    answers(host, "idle")
    blocked, other = _ask(host, kind, "hang in a thread")
    assert blocked.outcome == "timeout" and "blocked all episodes" in blocked.note
    assert place in blocked.note
    assert other.outcome == "error" and "this one is not to blame" in other.note
    host.act("idle", says("on"))
    assert "this one is not to blame" in answers(host, "idle")[0].note
    assert isinstance(_ask(host, "done")[0], Observation)
    assert (host.stats.timeouts, host.stats.errors, host.replaced) == (1, 2, 1)


@pytest.mark.slow
def test_all_processes_end_with_their_owner_however_that_ends(faulty):
    script = (
        "import sys, time\n"
        "from rlpost.config.schema import EnvironmentConfig\n"
        "from rlpost.environments import EnvironmentHost\n"
        f"host = EnvironmentHost(EnvironmentConfig(name={faulty!r}, processes=2))\n"
        f"for name in ('block', 'child'): host.open(name, {TASK!r}, 0)\n"
        "got = []\n"
        "while len(got) < 2: got += host.take(1.0)\n"
        "for name in ('block', 'child'): host.act(name, {'role': 'assistant', 'content': name})\n"
        "while not host.take(1.0): pass\n"
        "print('ready', flush=True)\n"
        "time.sleep(1000)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "ready\n"
    family = _family(owner.pid)
    assert len(family) >= 6  # the supervisor, two keepers, two servers, a child
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    deadline = time.monotonic() + 60
    while (left := [pid for pid in family if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
