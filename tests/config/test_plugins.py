"""Parts of an algorithm from a user's own file."""

import pytest

from rlpost.config import dump_config, explain, load_config, stage_objective
from rlpost.errors import ConfigError
from rlpost.training.saving import run_identity

RECIPE = """
model: {init: tiny}
data: {task: addition}
rewards: exact_match
algorithm: {base: grpo, PARTS}
"""

MEDIAN = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch


@dataclass(frozen=True)
class MedianCentred:
    """R minus the median of its group."""

    scale: float = 1.0
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = True

    def __call__(self, batch):
        same_SS = batch.group_S[:, None] == batch.group_S
        reward_SS = torch.where(same_SS, batch.reward_S.double(), torch.nan)
        return self.scale * (batch.reward_S - reward_SS.nanmedian(dim=1).values)[batch.sequence_N]

    @property
    def formula(self):
        return f"A = {self.scale:g} (R - median(R))"
'''

SHAPING = """
from dataclasses import dataclass
from typing import ClassVar

from rlpost.estimator.shaping import RewardShaping


@dataclass(frozen=True)
class Halved(RewardShaping):
    signals: ClassVar[frozenset[str]] = frozenset()

    def reward(self, reward_S, batch):
        return reward_S / 2

    @property
    def formula(self):
        return "R <- R / 2"


@dataclass(frozen=True)
class NoFormula(RewardShaping):
    signals: ClassVar[frozenset[str]] = frozenset()


class Thawed:
    signals = frozenset()


@dataclass(frozen=True)
class Broken(Halved):
    def __post_init__(self):
        raise RuntimeError("not today")


@dataclass(frozen=True)
class Demanding(Halved):
    size: int = None

    def __init__(self, size):
        object.__setattr__(self, "size", size)
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "my_parts.py").write_text(MEDIAN)
    (tmp_path / "my_shaping.py").write_text(SHAPING)

    def write(parts):
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.replace("PARTS", parts))
        return path

    return write


def objective(path, *overrides):
    return stage_objective(load_config(path, overrides).stages[0])


def test_a_part_beside_the_recipe_is_found_from_any_directory(recipe, tmp_path, monkeypatch):
    path = recipe("advantage: {my_parts.py:MedianCentred: {scale: 2.0}}")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert objective(path).terms[0].advantage.formula == "A = 2 (R - median(R))"
    assert "A = 2 (R - median(R))" in explain(load_config(path))


def test_a_part_may_be_named_from_the_command_line_and_lies_in_the_working_directory(
    recipe, tmp_path, monkeypatch
):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "other.py").write_text(MEDIAN)
    monkeypatch.chdir(folder)
    path = recipe("kl: 0.01")
    found = objective(path, "algorithm.advantage=other.py:MedianCentred")
    assert type(found.terms[0].advantage).__name__ == "MedianCentred"


def test_shipped_and_own_parts_stand_in_one_list(recipe):
    path = recipe("shaping: [soft_overlong, 'my_shaping.py:Halved']")
    assert [s.formula for s in objective(path).terms[0].shaping][1] == "R <- R / 2"


def test_the_resolved_recipe_names_the_file_so_that_it_loads_from_anywhere(recipe, tmp_path):
    config = load_config(recipe("advantage: 'my_parts.py:MedianCentred'"))
    (tmp_path / "run").mkdir()
    kept = tmp_path / "run" / "config.yaml"
    kept.write_text(dump_config(config))
    assert load_config(kept) == config
    assert objective(kept) == stage_objective(config.stages[0])


def test_the_content_of_the_file_and_not_its_folder_is_part_of_the_identity(recipe, tmp_path):
    path = recipe("advantage: 'my_parts.py:MedianCentred'")
    before = run_identity(load_config(path), {})
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("recipe.yaml", "my_parts.py"):
        (moved / name).write_text((tmp_path / name).read_text())
    assert run_identity(load_config(moved / "recipe.yaml"), {}) == before
    (tmp_path / "my_parts.py").write_text(MEDIAN.replace("median", "middle"))
    after = run_identity(load_config(path), {})
    assert [key for key in before if before[key] != after[key]] == [
        "content of my_parts.py:MedianCentred of stage train"
    ]


def test_a_file_that_was_edited_is_read_anew_when_a_recipe_is_loaded(recipe, tmp_path):
    path = recipe("advantage: 'my_parts.py:MedianCentred'")
    config = load_config(path)
    (tmp_path / "my_parts.py").write_text(MEDIAN.replace("median(R))", "middle(R))"))
    assert "median" in stage_objective(config.stages[0]).terms[0].advantage.formula
    assert "middle" in objective(path).terms[0].advantage.formula


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ("advantage: 'absent.py:X'", "absent.py:X' cannot be read (No such file or directory)"),
        ("advantage: 'my_parts.py:Mean'", "has no class 'Mean'; classes in it: MedianCentred"),
        ("advantage: 'my_parts.py'", "does not say which class; write my_parts.py:ClassName"),
        ("advantage: 'my_parts.py:torch'", "has no class 'torch'"),
        ("mask: 'my_parts.py:MedianCentred'", "is no mask: it has no "),
        ("shaping: 'my_shaping.py:NoFormula'", "is no shaping: it has no formula"),
        ("shaping: ['my_shaping.py:Thawed']", "must be decorated with @dataclass(frozen=True)"),
        ("shaping: ['my_shaping.py:Broken']", "cannot be made with options {}: RuntimeError: not today"),
        ("shaping: ['my_shaping.py:Demanding']", "cannot be made with options {}: TypeError"),
        ("advantage: {'my_parts.py:MedianCentred': {scal: 1}}", "unknown option 'scal' (nearest: 'scale')"),
        ("advantage: {'my_parts.py:MedianCentred': {scale: x}}", "scale: found 'x', needed a number"),
        ("shaping: ['my_shaping.py:Halved', 'my_shaping.py:Halved']", "holds the same part twice"),
    ],
)
def test_what_is_no_part_is_refused_with_one_clear_message(recipe, parts, complaint):
    with pytest.raises(ConfigError) as error:
        load_config(recipe(parts))
    assert complaint in str(error.value)
    assert "recipe.yaml, line 5" in str(error.value)
    assert error.value.exit_status == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "import nothing_of_that_name\n",
            "ModuleNotFoundError: No module named 'nothing_of_that_name' (line 1)",
        ),
        ("\nclass X(:\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "SystemExit: 3 (line 1)"),
    ],
)
def test_a_file_that_cannot_be_imported_names_the_error_and_its_line(recipe, tmp_path, text, complaint):
    (tmp_path / "my_parts.py").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(recipe("advantage: 'my_parts.py:MedianCentred'"))
    assert complaint in str(error.value)
