"""Which parts cannot act together, and why."""

from __future__ import annotations

from rlpost.estimator.advantage import GAE, GDPO, Constant, Preference, TeacherGap, TokenReturn
from rlpost.estimator.correction import SelfNormalised
from rlpost.estimator.credit import OutcomeCredit
from rlpost.estimator.denominator import Behaviour, ShapedUnit, Unit
from rlpost.estimator.gate_checks import gate_problems
from rlpost.estimator.granularity import ClippedGeometric
from rlpost.estimator.mask import AllOf, Keep, SoftGate
from rlpost.estimator.objective import Objective
from rlpost.estimator.parts import PARTS
from rlpost.estimator.regulariser import KL
from rlpost.estimator.selection import D3S, MaxVariance, Selection, TopTokens
from rlpost.estimator.shaping import ACE, KLInReward, RewardShaping
from rlpost.estimator.term import Term


class CompositionError(ValueError):
    """The algorithm named in a configuration does not exist or its parts do not fit together."""


def check_objective(objective: Objective) -> None:
    """Refuse parts that cannot act together.

    Raises:
        CompositionError: with the reason and a remedy.
    """
    _check_terms(objective)
    for term in objective.terms:
        _check_ratio(term)
        _check_actions(term)
        _check_mask(term)
        _check_correction(term)
        _check_rows(term)
    _check_selection(objective)
    _check_critic(objective)
    if objective.transform is not None:
        _check_transform(objective)
    for problem in gate_problems(objective):
        raise CompositionError(problem)
    for part in objective.regularisers:
        if isinstance(part, KL) and part.kind == "k1":
            raise CompositionError(
                "kl: k1 has expected gradient 0 as a loss, it belongs in the reward (shaping kl_in_reward); "
                "use k2, k3, k3+, k3w or k3_old"
            )


def _name(axis: str, part: object) -> str:
    """The name by which a configuration knows a part."""
    return next((name for name, kind in PARTS[axis].items() if kind is type(part)), type(part).__name__)


def _check_ratio(term: Term) -> None:
    """Denominator, granularity and the masks that bound their ratio."""
    granularity = _name("granularity", term.granularity)
    if term.denominator.is_current and term.mask.bounds_ratio:
        raise CompositionError(
            "a clip never acts with denominator `current`, whose ratio is always 1; "
            "use denominator `old` or mask `keep`"
        )
    if term.denominator.is_current and not term.granularity.is_token:
        raise CompositionError(f"granularity `{granularity}` has no effect with denominator `current`")
    if isinstance(term.denominator, Unit | ShapedUnit):
        denominator = _name("denominator", term.denominator)
        if term.mask.bounds_ratio or isinstance(term.granularity, ClippedGeometric):
            raise CompositionError(
                f"a clip around 1 has no meaning for denominator `{denominator}`, whose ratio is pi itself; "
                "use mask `keep` and granularity `token`"
            )
    if isinstance(term.denominator, ShapedUnit) and not term.granularity.is_token:
        raise CompositionError(
            "denominator `shaped_unit` shapes a token's probability; use granularity `token`"
        )


def _check_terms(objective: Objective) -> None:
    """Terms can be told apart, and agree on what a position's score is."""
    labels = [term.label for term in objective.terms]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise CompositionError(f"two terms are called `{twice[0]}`; give each a name of its own")
    actions = {term.actions for term in objective.terms if not term.actions.is_taken}
    if len(actions) > 1:
        raise CompositionError(
            "two terms with different `actions` would need two scores of each position; make them the same"
        )
    if actions and objective.transform is not None:
        raise CompositionError(
            "transform `clipping_bias` measures what a mask removes from log pi, and `actions` put a score "
            "in its place; use transform `none`"
        )


def _check_actions(term: Term) -> None:
    """A score is no log-probability: no ratio can be formed of it."""
    if term.actions.is_taken:
        return
    actions = _name("actions", term.actions)
    if not term.denominator.is_current or not isinstance(term.mask, Keep):
        raise CompositionError(
            f"actions `{actions}` have no ratio to an old policy; use denominator `current` and mask `keep`"
        )
    if term.correction:
        raise CompositionError(
            f"actions `{actions}` were drawn by the learner; a correction has nothing to do"
        )


def _check_mask(term: Term) -> None:
    """Masks among themselves and with the granularity."""
    masks = term.mask.masks if isinstance(term.mask, AllOf) else (term.mask,)
    for mask in masks:
        if mask.is_token and not term.granularity.is_token:
            raise CompositionError(
                f"mask `{_name('mask', mask)}` compares a token's own probabilities; use granularity `token`"
            )
    if any(isinstance(mask, SoftGate) for mask in masks[1:]):
        raise CompositionError(
            "mask `soft_gate` must come first in a list, since the loss value is that of the first mask"
        )


def _check_correction(term: Term) -> None:
    """Corrections need a mismatch that nothing else has corrected."""
    if not term.correction:
        return
    if isinstance(term.denominator, Behaviour):
        raise CompositionError(
            "denominator `behaviour` already corrects for the sampler's policy, and a correction would do it "
            "twice; use denominator `old`, or no correction"
        )
    if term.rows == "demonstrations":
        raise CompositionError("demonstrations were not sampled; a correction has nothing to correct there")
    if isinstance(term.correction[0], SelfNormalised):
        raise CompositionError(
            "correction `self_normalised` divides the factors before it; put `truncated` or `banded` first"
        )


def _check_rows(term: Term) -> None:
    """What a term's rows know."""
    if isinstance(term.advantage, Constant) and any(isinstance(part, ACE) for part in term.shaping):
        raise CompositionError(
            "shaping `ace` weighs wrong responses, and advantage `constant` calls none wrong; "
            "use an advantage that compares rewards"
        )
    if isinstance(term.advantage, Constant) and term.shaping:
        raise CompositionError("a shaping of the reward never acts with advantage `constant`")
    if isinstance(term.advantage, GDPO) and any(isinstance(part, RewardShaping) for part in term.shaping):
        raise CompositionError(
            "a shaping of the reward never acts with advantage `gdpo`, which reads the reward's parts; "
            "make it a reward function of its own"
        )
    if isinstance(term.advantage, TeacherGap) and any(isinstance(s, RewardShaping) for s in term.shaping):
        raise CompositionError(
            "a shaping of the reward never acts with advantage `teacher_gap`, which reads none; "
            "add a term of its own for the reward"
        )
    kl_in_advantage = isinstance(term.advantage, TokenReturn | GAE) and term.advantage.kl > 0
    if kl_in_advantage and any(isinstance(part, KLInReward) for part in term.shaping):
        raise CompositionError(
            "shaping `kl_in_reward` would take the KL off the reward again; set the advantage's kl to 0"
        )
    if term.compared_with == "all" and (isinstance(term.advantage, Constant) or term.advantage.signals):
        raise CompositionError(
            "`compared_with: all` puts demonstrations into the groups of rollouts, which needs an advantage "
            "that compares rewards alone"
        )
    if term.compared_with == "all" and isinstance(term.advantage, GDPO):
        raise CompositionError(
            "advantage `gdpo` compares the parts of the reward, of which a demonstration has none; use "
            "another advantage, or `compared_with: own`"
        )
    alone = term.rows == "demonstrations" and term.compared_with == "own"
    if alone and not isinstance(term.advantage, Constant | Preference):
        raise CompositionError(
            "demonstrations have no reward; use advantage `constant`, `preference` where they come in pairs, "
            "or `compared_with: all`"
        )
    if term.rows == "demonstrations" and term.ratio_signals:
        raise CompositionError("demonstrations have no old policy; use denominator `current` or `unit`")


def _check_critic(objective: Objective) -> None:
    """One critic, which learns one return with each head."""
    learned = {
        (t.advantage, t.shaping, t.rows, t.compared_with)
        for t in objective.terms
        if isinstance(t.advantage, GAE)
    }
    if len(learned) > 1:
        raise CompositionError(
            "two terms with advantage `gae` and different options or shapings would give one critic two "
            "returns to learn; make them the same"
        )
    credits = {part for t in objective.terms for part in t.shaping if isinstance(part, OutcomeCredit)}
    read = {part.success for part in credits if part.heads}
    if learned and read:
        raise CompositionError(
            "advantage `gae` has the critic learn returns, shaping `outcome_credit` outcomes; use one of them"
        )
    if len(read) > 1:
        raise CompositionError(
            "two shapings `outcome_credit` with different `success` would give one token reward model two "
            "outcomes to learn; make them the same"
        )


def _check_transform(objective: Objective) -> None:
    """The clipping bias is the gradient of tokens that a mask removes, which some mask must do."""
    masks = [
        mask
        for term in objective.terms
        for mask in (term.mask.masks if isinstance(term.mask, AllOf) else (term.mask,))
    ]
    if all(isinstance(mask, Keep) for mask in masks):
        raise CompositionError(
            "transform `clipping_bias` measures what a mask removes, and mask `keep` removes nothing; "
            "use mask `clip`, or transform `none`"
        )
    if any(isinstance(mask, SoftGate) for mask in masks):
        raise CompositionError(
            "transform `clipping_bias` measures the tokens that a mask removes, and mask `soft_gate` fades "
            "all tokens without removing any; use mask `clip`, or transform `none`"
        )
    if any(isinstance(term.granularity, ClippedGeometric) for term in objective.terms):
        raise CompositionError(
            "transform `clipping_bias` measures what a mask removes, and granularity `clipped_geometric` "
            "cuts inside the ratio of all tokens; use granularity `token`, `turn` or `sequence`"
        )


def _check_selection(objective: Objective) -> None:
    """Refuse selections that have nothing to choose from, or that choose twice."""
    if not objective.selection:
        return
    if all(term.rows == "demonstrations" for term in objective.terms):
        raise CompositionError(
            "a selection chooses among rollouts, and this objective trains on demonstrations alone; "
            "use selection `all`"
        )
    if {D3S, TopTokens} <= {type(part) for part in objective.selection}:
        raise CompositionError(
            "selection `d3s` picks tokens by |A| H itself, so `top_tokens` would pick among its picks; "
            "use one of the two, or `top_tokens` with `max_variance`"
        )
    first = objective.terms[0]
    if isinstance(first.advantage, Constant) or first.rows == "demonstrations":
        for part in objective.selection:
            if _reads_advantages(part):
                raise CompositionError(
                    f"this selection ({part.formula}) compares the advantages of rollouts, and those of the "
                    "first term are constant; use an advantage that compares rewards"
                )


def _reads_advantages(part: Selection) -> bool:
    """Whether a selection has nothing to go by where all advantages are the same."""
    if isinstance(part, TopTokens):
        return part.score == "advantage_entropy"
    return isinstance(part, D3S | MaxVariance)
