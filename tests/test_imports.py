"""What stays out of memory until somebody asks for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("transformers", "ray", "vllm", "deepspeed")


def loaded_by(statement: str, root) -> set[str]:
    """Top-level modules that a fresh interpreter holds after one statement."""
    program = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=120, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    ["import rlpost.estimator", "import rewards", "import rlpost.evaluation", "import rlpost.config"],
)
def test_the_core_rewards_and_evaluation_import_no_model_library_and_no_cluster(statement, project_root):
    assert not loaded_by(statement, project_root) & set(HEAVY)


def test_the_command_line_imports_not_even_torch(project_root):
    modules = loaded_by("import rlpost.cli", project_root)
    assert "typer" in modules
    assert not modules & {*HEAVY, "torch", "datasets", "pydantic", "yaml"}


def test_rewards_import_nothing_beyond_the_standard_library(project_root):
    third_party = loaded_by("import rewards", project_root) - set(sys.stdlib_module_names)
    assert not third_party & {"torch", "numpy", "math_verify", "sympy", "pydantic", "rlpost"}
