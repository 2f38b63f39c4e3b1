"""The body of `rlpost eval`: models on benchmarks, sampled by workers or a server, and the pages about them.

What a result is, and how it comes about, is `rlpost.evaluation`; this folder brings it models and shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlpost.benchmarking.command import evaluate_model, evaluate_models
    from rlpost.benchmarking.options import EvalOptions
    from rlpost.benchmarking.pages import renew_pages, write_pages

__all__ = ["EvalOptions", "evaluate_model", "evaluate_models", "renew_pages", "write_pages"]


def __getattr__(name: str) -> Any:
    if name in ("evaluate_model", "evaluate_models"):
        from rlpost.benchmarking import command

        return getattr(command, name)
    if name == "EvalOptions":
        from rlpost.benchmarking.options import EvalOptions

        return EvalOptions
    if name in ("renew_pages", "write_pages"):
        from rlpost.benchmarking import pages

        return getattr(pages, name)
    raise AttributeError(name)
