"""Signals that a launcher blocked stay blocked in an actor's process and below it."""

import subprocess
import sys

PROGRAM = """
import multiprocessing, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
def masked():
    return signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
def tell(pipe):
    pipe.send(masked())
if __name__ == "__main__":
    from rlpost.cluster.host import keep_blocked
    if sys.argv[1] == "kept":
        keep_blocked()
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    child = spawn.Process(target=tell, args=(there,))
    child.start()
    print(masked(), here.recv())
    child.join()
"""


def test_starting_a_process_does_not_unblock_what_a_launcher_blocked(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py", "kept"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "True"]
