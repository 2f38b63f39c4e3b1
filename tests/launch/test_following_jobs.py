"""How a job of a Ray cluster is followed through waits, silences and every kind of end."""

from types import SimpleNamespace

import pytest

from rlpost.errors import DeadlineError
from rlpost.launch import following
from rlpost.launch.following import End, Follower, cause_in, one_line
from rlpost.launch.ray_server import ServerLostError

pytestmark = pytest.mark.cluster


class Server:
    """Answers from a list, the last one for ever, and gives output that ends."""

    address = "http://head:8265"

    def __init__(self, *answers, output=("one\n", "two\n")):
        self.answers, self.output, self.stopped = list(answers), output, []
        self.client = SimpleNamespace(tail_job_logs=self._tail)

    async def _tail(self, job):
        for piece in self.output:
            yield piece

    def details(self, job):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def stop(self, job):
        self.stopped.append(job)


@pytest.fixture
def details(monkeypatch):
    pytest.importorskip("ray")
    from ray.job_submission import JobDetails

    monkeypatch.setattr(following, "POLL_S", 0.01)
    monkeypatch.setattr(following, "AGAIN_S", 0.01)
    return lambda state, **more: JobDetails(type="SUBMISSION", entrypoint="x", status=state, **more)


def followed(server, start_deadline_s=60.0):
    written, said = [], []
    return Follower(server, "job", written.append, said.append, start_deadline_s), written, said


@pytest.mark.parametrize(
    ("state", "more", "end"),
    [
        ("SUCCEEDED", {"driver_exit_code": 0}, End(0)),
        ("STOPPED", {}, End(143)),
        ("FAILED", {"driver_exit_code": 143}, End(143)),
        ("FAILED", {"driver_exit_code": 2}, End(2, "no data")),
        ("FAILED", {"driver_exit_code": -9}, End(137, "the driver was killed by SIGKILL")),
        ("FAILED", {"message": "its  node\ndied\nTraceback: x"}, End(1, "its node died")),
    ],
)
def test_the_status_of_a_run_is_that_of_its_driver_and_a_failure_has_its_cause(details, state, more, end):
    output = ("begins\n", "error: no da", "ta\n  where: x\n", "last words")
    follower, written, said = followed(Server(details("RUNNING"), details(state, **more), output=output))
    assert follower.until_end() == end
    assert "".join(written) == "begins\nerror: no data\n  where: x\nlast words\n"
    assert said == []


def test_what_was_read_before_is_not_written_again_when_the_connection_comes_back(details):
    lost = ServerLostError("gone", found="nobody listens there")
    server = Server(details("RUNNING"), lost, lost, details("RUNNING"), details("SUCCEEDED"))
    follower, written, said = followed(server)
    assert follower.until_end() == End(0)
    assert "".join(written) == "one\ntwo\n"
    assert said == [
        "lost the connection to http://head:8265: trying again for 300 s",
        "job job is running",
    ]


def test_following_ends_when_the_server_stays_silent_or_forgets_the_job(details, monkeypatch):
    monkeypatch.setattr(following, "RECONNECT_S", 0.05)
    follower, _, _ = followed(Server(ServerLostError("gone", found="nobody listens there")))
    with pytest.raises(
        DeadlineError, match=r"fell silent(?s:.*)ray job logs --follow job --address http://head"
    ):
        follower.until_end()
    follower, _, _ = followed(Server(details("RUNNING"), None))
    assert follower.until_end().cause.startswith("the cluster no longer knows of job job")


def test_a_job_that_is_not_started_in_time_is_taken_back(details):
    server = Server(details("PENDING", message="no machine has 4 CPUs"), output=())
    follower, _, said = followed(server, start_deadline_s=0.05)
    with pytest.raises(DeadlineError, match="no machine has 4 CPUs"):
        follower.until_end()
    assert server.stopped == ["job"]
    assert said == ["job job is waiting to be started: no machine has 4 CPUs"]


def test_the_cause_is_the_last_error_or_else_the_last_words():
    assert cause_in(["error: a", "error: b", "  where: c", ""]) == "b"
    assert cause_in(["one", "two", " "]) == "two"
    assert cause_in([]) == "it said nothing"
    assert one_line("x" * 500) == "x" * 400 + " ..."
