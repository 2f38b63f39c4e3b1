"""A project as readers of the documentation have it: recipes, a reward, data."""

from __future__ import annotations

import json
import re
from pathlib import Path

RECIPE = """
name: mine
model: {init: tiny, tiny: {hidden_size: 32, layers: 1, heads: 1, intermediate_size: 32, max_positions: 256}}
data: {task: addition, limit: 40, template: none, demonstration_column: demonstration, max_prompt_tokens: 16}
rewards: exact_match
rollout: {max_response_tokens: 4}
stages:
  - {name: sft, source: demonstrations, algorithm: sft, train: {samples_per_prompt: 1}}
  - {name: rl, algorithm: grpo, train: {samples_per_prompt: 2}}
train: {steps: 1}
evaluation: {problems: 4}
"""
CODE_RECIPE = """
name: code
model: {init: tiny}
data: {path: programs.jsonl, answer_column: null}
rewards: code
rollout: {max_response_tokens: 4}
algorithm: grpo
train: {steps: 1, prompts_per_step: 4, samples_per_prompt: 2}
"""
REWARD = """
def reward(completion: str, answer: str) -> float:
    return float(completion.strip().endswith(answer.split()[-1]))
"""
ROWS = [
    {
        name: text
        for names, text in (("question problem", f"{n} + 34?"), ("answer solution", f"#### {n + 34}"))
        for name in names.split()
    }
    for n in range(12, 20)
]
PROGRAMS = [
    {
        "prompt": "Write add.",
        "tests": ["assert add(1, 2) == 3"],
        "solution": "def add(a, b):\n    return a + b",
    }
] * 4
COMPLETIONS = [
    {"completion": "It is 46", "answer": "46", "label": 1.0, "question": "12 + 34?"},
    {"completion": "I do not know.", "answer": "46", "label": 0.0, "question": "12 + 34?"},
]
_TITLED = re.compile(r'^```\w+ title="([\w.-]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def scratch_project(folder: Path, root: Path, page: Path) -> None:
    """Fill `folder` with links to the project's own files, and with what a page supposes to be there.

    Blocks of the page with a title are files of that name; several of one name follow each other.
    """
    for name in ("configs", "rewards", "benchmarks", "requirements", "docker", "launch"):
        (folder / name).symlink_to(root / name)
    for name in ("recipe.yaml", "grpo.yaml", "rloo.yaml"):
        (folder / name).write_text(RECIPE.replace("mine", name.partition(".")[0]))
    (folder / "my_recipe.yaml").write_text(CODE_RECIPE)
    (folder / "arms.yaml").symlink_to(root / "configs/lab/arms.yaml")
    for name in ("my_reward.py", "judge.py"):
        (folder / name).write_text(REWARD)
    _write_rows(folder / "programs.jsonl", PROGRAMS)
    for name in ("mine.jsonl", "test.jsonl", "data/gsm8k/train.jsonl", "data/gsm8k/test.jsonl"):
        _write_rows(folder / name, ROWS)
    _write_rows(folder / "completions.jsonl", COMPLETIONS)
    files: dict[str, str] = {}
    for name, text in _TITLED.findall(page.read_text(encoding="utf-8")):
        files[name] = files.get(name, "") + text
    for name, text in files.items():
        (folder / name).write_text(text)


def _write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
