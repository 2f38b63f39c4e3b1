"""Causal language models and tokenizers: loaded from Hugging Face, or a tiny pair built on the spot.

Used by learners and engines alike, so that both hold the same architecture.
"""

from rlpost.models.adapters import Adapter
from rlpost.models.causal_lm import build_shell, load_model, max_positions
from rlpost.models.tokenizer import load_tokenizer

__all__ = ["Adapter", "build_shell", "load_model", "load_tokenizer", "max_positions"]
