"""`rlpost explain`: a recipe's arithmetic and objective in words."""

from rlpost.config.explain.explain import explain, sizes

__all__ = ["explain", "sizes"]
