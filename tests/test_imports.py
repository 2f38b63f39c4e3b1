"""What stays out of memory until somebody asks for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("transformers", "ray", "vllm", "deepspeed", "peft")
LIGHT = ("import rewards", "import rlpost.config", "import rlpost.estimator", "import rlpost.evaluation")


def printed_by(program: str, root) -> list[set[str]]:
    """The words of each line that a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=120, check=True
    )
    return [set(line.split()) for line in done.stdout.splitlines()]


def loaded_by(statement: str, root) -> set[str]:
    """Top-level modules that a fresh interpreter holds after one statement."""
    (modules,) = printed_by(
        f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})", root
    )
    return modules


@pytest.fixture(scope="module")
def loaded(project_root):
    """Top-level modules that a fresh interpreter holds after each of some statements, in their order."""
    program = "import sys\n" + "".join(
        f"{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})\n" for statement in LIGHT
    )
    return dict(zip(LIGHT, printed_by(program, project_root), strict=True))


@pytest.mark.parametrize("statement", LIGHT)
def test_the_core_rewards_and_evaluation_import_no_model_library_and_no_cluster(statement, loaded):
    # What those before it have loaded counts too, and is none of these either.
    assert not loaded[statement] & set(HEAVY)


def test_the_command_line_imports_not_even_torch(project_root):
    modules = loaded_by("import rlpost.cli", project_root)
    assert "typer" in modules
    assert not modules & {*HEAVY, "torch", "datasets", "pydantic", "yaml"}


def test_rewards_import_nothing_beyond_the_standard_library(loaded):
    third_party = loaded["import rewards"] - set(sys.stdlib_module_names)
    assert not third_party & {"torch", "numpy", "math_verify", "sympy", "pydantic", "rlpost"}
