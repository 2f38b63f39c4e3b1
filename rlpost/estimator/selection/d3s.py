"""D3S: maximum-variance sequences, and of these the tokens with the largest |A| H."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.selection import schedule
from rlpost.estimator.selection.selection import Renewal, Selected
from rlpost.estimator.selection.tokens import top_tokens
from rlpost.estimator.selection.variance import MaxVariance, Scope


@dataclass(frozen=True)
class D3S:
    """Dynamic dual-level down-sampling (arXiv 2509.22115): both budgets grow over the training run.

    Advantages are those of all rollouts, formed before the selection and never again. The form of the
    schedule is the paper's; its constants were not published, the defaults are ours. With all shares 1
    it is its host. Demonstrations stay with all their tokens, and count in neither budget.

    Attributes:
        n_start: share of the rollouts kept at the start of training.
        n_end: the same at its end.
        k_start: share of the kept rollouts' tokens in the policy loss at the start.
        k_end: the same at its end.
        scope: "batch" compares all rollouts of the step, "group" those of each prompt.
        denominators: see `TopTokens`; not settled by the paper.
    """

    n_start: float = 0.25
    n_end: float = 1.0
    k_start: float = 0.2
    k_end: float = 1.0
    scope: Scope = "batch"
    denominators: Renewal = "renewed"
    signals: ClassVar[frozenset[str]] = frozenset({"entropy"})
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    before_advantages: ClassVar[bool] = False

    def __post_init__(self) -> None:
        schedule.require_shares(
            n_start=self.n_start, n_end=self.n_end, k_start=self.k_start, k_end=self.k_end
        )

    def __call__(self, batch: TokenBatch, advantage_N: Tensor) -> Selected:
        chosen = MaxVariance(self.scope, self.n_start, self.n_end)(batch, advantage_N)
        share = schedule.share_at(self.k_start, self.k_end, batch.progress)
        keep_N = top_tokens(batch, advantage_N, chosen.keep_S, share, "advantage_entropy")
        return replace(chosen, keep_N=keep_N, denominators=self.denominators)

    @property
    def formula(self) -> str:
        where = "the batch" if self.scope == "batch" else "each group"
        sequences = f"argmax Var(A) over {schedule.formula(self.n_start, self.n_end)} of {where}"
        tokens = f"top {schedule.formula(self.k_start, self.k_end)} of its tokens by |A| H"
        return f"{sequences}; {tokens}, n_i {self.denominators}"
