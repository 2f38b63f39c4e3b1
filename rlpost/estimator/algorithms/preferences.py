"""Rows that learn from pairs of responses: DPO and its variants."""

from __future__ import annotations

from rlpost.estimator.advantage import Constant, Preference
from rlpost.estimator.aggregation import PromptMean
from rlpost.estimator.algorithms.row import Row
from rlpost.estimator.denominator import Current
from rlpost.estimator.gate import PreferredGate
from rlpost.estimator.objective import Objective
from rlpost.estimator.term import Term


def _paired(preference: Preference) -> Objective:
    """One term over all rows: pairs are sampled, or come with the data."""
    return Objective((Term(preference, Current(), PromptMean("token_sum"), rows="all"),))


PREFERENCES: dict[str, Row] = {
    "dpo": Row(
        family="preferences",
        summary="of two responses the better one is raised and the other lowered, until they differ enough",
        objective=_paired(Preference()),
        source="arXiv 2305.18290",
        certain="A_w = -A_l = beta sigmoid(-beta D), beta = 0.1, token sums, mean over pairs",
        ours=(
            "the higher reward is preferred, whether pairs are sampled or come with the data; all pairs of a "
            "larger group count. D is that of the policy before the step, so the first update is exact; the "
            "loss reported as policy/loss is -A log pi, the paper's is preference/loss"
        ),
    ),
    "ipo": Row(
        family="preferences",
        summary="two responses are driven apart until they differ by a fixed amount, and not further",
        objective=_paired(Preference(kind="ipo", score="mean")),
        source="arXiv 2310.12036",
        certain="loss (D - 1/(2 beta))^2; beta = 0.1 as in TRL",
        ours=(
            "D is a difference of means over tokens, as TRL and AReaL have it; the paper's is one of sums "
            "(score: sum). Otherwise as dpo"
        ),
    ),
    "simpo": Row(
        family="preferences",
        summary="as dpo without a reference, by the mean log-prob of a token, and with a margin to exceed",
        objective=_paired(Preference(beta=2.0, score="mean", reference=False, target=1.0)),
        source="arXiv 2405.14734, eq. 6",
        certain="loss -log sigmoid(beta mean_w - beta mean_l - gamma), no reference",
        ours="beta = 2, gamma = 1: in the range that the paper searched. Otherwise as dpo",
    ),
    "orpo": Row(
        family="preferences",
        summary="the better response is imitated, and its odds driven above the other's; no reference",
        objective=Objective(
            (
                Term(
                    Preference(beta=1.0, score="odds", reference=False),
                    Current(),
                    PromptMean("token_sum"),
                    rows="all",
                    weight=0.1,
                    name="odds",
                ),
                Term(
                    Constant(1.0),
                    Current(),
                    PromptMean("sequence_mean_token_mean"),
                    gate=PreferredGate(),
                    rows="all",
                    name="preferred",
                ),
            )
        ),
        source="arXiv 2403.07691, eq. 6 and 7",
        certain="-mean log pi of the preferred response - lambda log sigmoid(log odds ratio), lambda = 0.1",
        ours="the prompt's tokens are not imitated; where several samples share the best reward, all are. "
        "Otherwise as dpo",
    ),
}
