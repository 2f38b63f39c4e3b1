"""Measures: what a loss reports, in a form that adds up over micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Measures:
    """Partial statistics of a part of the batch.

    Attributes:
        sums: scalars that add up; reported as they are.
        means: (numerator, denominator) scalars that add up separately; reported as their
            quotient, or left out when the denominator is 0.
        maxima: scalars of which the largest is reported.
    """

    sums: Mapping[str, Tensor] = field(default_factory=dict)
    means: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    maxima: Mapping[str, Tensor] = field(default_factory=dict)

    def __add__(self, other: Measures) -> Measures:
        zero = torch.zeros(())
        low = torch.tensor(-torch.inf)
        return Measures(
            {k: self.sums.get(k, zero) + other.sums.get(k, zero) for k in {**self.sums, **other.sums}},
            {
                k: (
                    self.means.get(k, (zero, zero))[0] + other.means.get(k, (zero, zero))[0],
                    self.means.get(k, (zero, zero))[1] + other.means.get(k, (zero, zero))[1],
                )
                for k in {**self.means, **other.means}
            },
            {
                k: torch.maximum(
                    self.maxima.get(k, low).to(torch.float64), other.maxima.get(k, low).to(torch.float64)
                )
                for k in {**self.maxima, **other.maxima}
            },
        )

    def values(self) -> dict[str, float]:
        """The finished numbers by name."""
        result = {k: float(v) for k, v in self.sums.items()}
        result |= {k: float(n) / float(d) for k, (n, d) in self.means.items() if float(d) != 0.0}
        result |= {k: float(v) for k, v in self.maxima.items() if float(v) != -torch.inf}
        return result
