"""The benchmarks that `rlpost eval --benchmarks` knows by name: where the problems lie, how to ask them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlpost.config.schema import DataConfig, RewardConfig
from rlpost.errors import DataError, UserError

BOXED = r"Please reason step by step, and put your final answer within \boxed{}."
HASHES = "Please reason step by step, and write your final answer on the last line after ####."


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A set of problems with its verifier.

    Attributes:
        name: the name on the command line.
        path: the file; relative paths lie under the data directory.
        prompt_column: the problem.
        answer_column: the gold answer; None when the reward needs none.
        reward: the verifier, as in a configuration's `rewards[].function`.
        instruction: appended to each problem, after a blank line.
        id_column: a stable id of the problem; None takes a hash of its content.
        source: where the problems come from.
    """

    name: str
    path: str
    prompt_column: str
    answer_column: str | None
    reward: str
    instruction: str | None = None
    id_column: str | None = None
    source: str = ""

    def data_config(self, data_dir: Path, *, limit: int | None, max_prompt_tokens: int) -> DataConfig:
        """How to load the problems, in file order; one that does not fit the model is an error.

        Raises:
            DataError: the file is not there.
        """
        path = data_dir / self.path
        if not path.is_file():
            raise DataError(
                f"no problems for {self.name}",
                where=path,
                needed=f"a file with the columns {self.prompt_column!r} and {self.answer_column!r}",
                remedy=f"pass the folder that holds {self.path} as --data-dir. {self.source}".strip(),
            )
        return DataConfig(
            path=str(path),
            prompt_column=self.prompt_column,
            answer_column=self.answer_column,
            id_column=self.id_column,
            instruction=self.instruction,
            max_prompt_tokens=max_prompt_tokens,
            limit=limit,
            shuffle=False,
        )

    def reward_config(self) -> RewardConfig:
        """The verifier, with weight 1."""
        return RewardConfig(function=self.reward)


BENCHMARKS: dict[str, Benchmark] = {
    b.name: b
    for b in (
        Benchmark(
            name="gsm8k",
            path="gsm8k/test.jsonl",
            prompt_column="question",
            answer_column="answer",
            reward="gsm8k",
            instruction=HASHES,
            source="1,319 grade-school problems: openai/gsm8k, split test (Cobbe et al. 2021).",
        ),
        Benchmark(
            name="math500",
            path="math500/test.jsonl",
            prompt_column="problem",
            answer_column="answer",
            reward="math_answer",
            instruction=BOXED,
            id_column="unique_id",
            source="500 problems of MATH: HuggingFaceH4/MATH-500 (Lightman et al. 2023).",
        ),
        Benchmark(
            name="aime24",
            path="aime24/test.jsonl",
            prompt_column="problem",
            answer_column="answer",
            reward="math_answer",
            instruction=BOXED,
            id_column="id",
            source="30 problems of AIME I and II 2024; answers are integers from 0 to 999, such as 025.",
        ),
        Benchmark(
            name="amc23",
            path="amc23/test.jsonl",
            prompt_column="problem",
            answer_column="answer",
            reward="math_answer",
            instruction=BOXED,
            id_column="id",
            source="40 problems of AMC 12 2023, changed to have one number as the answer, such as 27.0.",
        ),
    )
}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        UserError: there is none; the message lists all.
    """
    if name not in BENCHMARKS:
        raise UserError(
            f"unknown benchmark {name!r}",
            where="--benchmarks",
            needed=f"one or more of {', '.join(BENCHMARKS)}",
            remedy="for a file of your own, use --data with --prompt-column, --answer-column and --reward",
        )
    return BENCHMARKS[name]
