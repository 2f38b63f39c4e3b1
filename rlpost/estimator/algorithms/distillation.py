"""Rows that learn from a teacher."""

from __future__ import annotations

from rlpost.estimator.advantage import TeacherGap
from rlpost.estimator.aggregation import TokenMean
from rlpost.estimator.algorithms.row import Row
from rlpost.estimator.denominator import Old
from rlpost.estimator.objective import Objective
from rlpost.estimator.term import Term

DISTILLATION: dict[str, Row] = {
    "distil": Row(
        family="distillation",
        summary="the policy's own tokens, each rewarded by how much more probable the teacher finds it",
        objective=Objective((Term(TeacherGap(), Old(), TokenMean()),)),
        source="arXiv 2306.13649 (GKD with the reverse KL, all data the student's), 2306.08543 (MiniLLM)",
        certain="the gradient of KL(pi || pi_T) on what the policy samples, nothing passed through sampling",
        ours=(
            "the KL's gradient is estimated from the sampled token alone (GKD sums over the vocabulary, "
            "MiniLLM adds the gaps of later tokens); denominator old without a clip, which acts only with "
            "several updates a step; all tokens of the update count alike. No reward is read"
        ),
    ),
}
