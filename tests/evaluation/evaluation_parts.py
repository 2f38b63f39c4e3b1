"""Problems and an engine whose responses follow from the seeds, for the tests of this folder."""

import time
from dataclasses import dataclass, field

from rlpost.data.trajectory import Prompt
from rlpost.rollout.engine import FailedSample, Sample, SampleRequest

VERIFIER = """
def reward(completion, answer):
    if "crash" in completion:
        raise RuntimeError("cannot judge this")
    if "boxed" not in completion:
        return {"score": 0.0, "outcome": "unparseable", "note": "no box"}
    right = completion.split("{")[1].split("}")[0] == answer
    return {"score": float(right), "length": len(completion)}
"""


@dataclass
class SeededEngine:
    """Answers a request with a digit that its seed decides, or with the words set for its prompt.

    Attributes:
        version: the policy version that its samples carry.
        words: responses by the first token of the prompt; "lost" stands for a request that failed.
        capacity: see `SampleSource`.
        at_once: answers to one poll, the newest requests first.
        stop_after: answers after which the process is "killed".
        asked: the ids of all requests it answered.
    """

    version: int = 7
    words: dict[int, str] = field(default_factory=dict)
    capacity: int | None = None
    at_once: int = 3
    stop_after: int | None = None
    asked: list[str] = field(default_factory=list)
    waiting: list[SampleRequest] = field(default_factory=list)
    killed: int = 0

    def submit(self, groups):
        self.waiting += [request for group in groups for request in group]

    def poll(self, wait_s):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            time.sleep(0.2)  # what was finished is scored and written meanwhile
            self.killed += 1
            if self.killed > 3:
                raise KeyboardInterrupt
            return []
        taken = [self.waiting.pop() for _ in range(min(self.at_once, len(self.waiting)))]
        self.asked += [request.id for request in taken]
        return [self._sample(request) for request in taken]

    def _sample(self, request):
        if self.words.get(request.prompt_token_ids[0]) == "lost":
            return FailedSample(request.id, "error", "the line was cut")
        text = self.words.get(request.prompt_token_ids[0], f"It is \\boxed{{{request.seed % 3}}}.")
        ids = tuple(text.encode())
        reason = "length" if request.seed % 5 == 0 else "eos"
        return Sample(request.id, ids, (-1.0,) * len(ids), (self.version,) * len(ids), reason, text)


def make_prompts(count=6):
    """Problem i has the answer i mod 3."""
    return [
        Prompt(id=f"p{i}", text=f"problem {i}", token_ids=(i, 99), columns={"answer": str(i % 3), "level": i})
        for i in range(count)
    ]


def read_files(folder):
    """The bytes of everything that must not depend on time."""
    names = ("generations.jsonl", "problems.jsonl", "results.json", "manifest.json")
    return {name: (folder / name).read_bytes() for name in names}
