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
        sums, means, maxima = dict(self.sums), dict(self.means), dict(self.maxima)
        for name, value in other.sums.items():
            sums[name] = sums[name] + value if name in sums else value
        for name, (numerator, denominator) in other.means.items():
            if name in means:
                numerator, denominator = means[name][0] + numerator, means[name][1] + denominator
            means[name] = (numerator, denominator)
        for name, value in other.maxima.items():
            value = value.to(torch.float64)
            maxima[name] = torch.maximum(maxima[name].to(torch.float64), value) if name in maxima else value
        return Measures(sums, means, maxima)

    def values(self) -> dict[str, float]:
        """The finished numbers by name."""
        result = {k: float(v) for k, v in self.sums.items()}
        result |= {k: float(n) / float(d) for k, (n, d) in self.means.items() if float(d) != 0.0}
        result |= {k: float(v) for k, v in self.maxima.items() if float(v) != -torch.inf}
        return result
