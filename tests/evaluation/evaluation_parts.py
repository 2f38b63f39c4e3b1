"""Problems and an engine whose responses follow from the seeds, for the tests of this folder."""

from dataclasses import dataclass, field

from rlpost.data.trajectory import Prompt
from rlpost.rollout.engine import Sample

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
        words: responses by the first token of the prompt.
        stop_after: requests after which the process is "killed".
        asked: the ids of all requests it answered.
    """

    version: int = 7
    words: dict[int, str] = field(default_factory=dict)
    stop_after: int | None = None
    asked: list[str] = field(default_factory=list)

    def generate(self, requests):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += [request.id for request in requests]
        return [self._sample(request) for request in requests]

    def _sample(self, request):
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
