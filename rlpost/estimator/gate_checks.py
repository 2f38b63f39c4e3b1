"""Which gates cannot act, or not together."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.estimator.gate import AllGates, Gate, RewardGate
from rlpost.estimator.objective import Objective
from rlpost.estimator.pass_gates import PassCountTable, PassRateGate
from rlpost.estimator.selection.rewards import refilling
from rlpost.estimator.term import Term

_COUNTING = {PassRateGate: "pass_rate", PassCountTable: "pass_count", RewardGate: "reward"}


def gate_problems(objective: Objective) -> Iterator[str]:
    """Every reason, with a remedy, why the gates of an objective cannot do what they are for."""
    gates = [(term, gate) for term in objective.terms for gate in _gates(term)]
    counting = [_COUNTING[type(gate)] for _, gate in gates if type(gate) in _COUNTING]
    demonstrated = any(term.rows != "rollouts" for term in objective.terms)
    if counting and all(term.rows == "demonstrations" for term in objective.terms):
        yield (
            f"gate `{counting[0]}` counts rollouts that succeed, and this objective has demonstrations "
            "alone; use gate `open`"
        )
    for term, gate in gates:
        if isinstance(gate, RewardGate) and term.rows == "demonstrations":
            yield (
                f"gate `reward` chooses among rollouts, and term `{term.label}` trains demonstrations, whose "
                "weight would be 0; use gate `pass_rate` with side at_most, or gate `open`"
            )
        if isinstance(gate, PassRateGate) and gate.without_demonstration == "rollouts" and not demonstrated:
            yield (
                "gate `pass_rate` lets a prompt without a demonstration keep its rollouts, and no term "
                "trains demonstrations, so it would never close; set without_demonstration: nothing"
            )
    yield from _sides(gates)
    for term in objective.terms:
        if term.compared_with == "all" and not demonstrated:
            yield (
                f"term `{term.label}` is compared with all rows, demonstrations included, and no term trains "
                "demonstrations; use compared_with: own"
            )
    counts = {"pass_rate", "pass_count"} & set(counting)
    if counts and demonstrated and refilling(objective.selection) is not None:
        yield (
            f"a selection with refill replaces prompts that no rollout solves, and gate `{min(counts)}` is "
            "there to have them learn from demonstrations; set refill: false"
        )


def _gates(term: Term) -> tuple[Gate, ...]:
    return term.gate.gates if isinstance(term.gate, AllGates) else (term.gate,)


def _sides(gates: list[tuple[Term, Gate]]) -> Iterator[str]:
    """Where one side of a gate of rates is open, the other must be closed."""
    sides: dict[str, dict[tuple[float, float, str], Term]] = {"above": {}, "at_most": {}}
    for term, gate in gates:
        if isinstance(gate, PassRateGate):
            sides[gate.side][gate.threshold, gate.success, gate.without_demonstration] = term
    above, at_most = sides.values()
    if above and at_most and above.keys() != at_most.keys():
        names = [next(iter(side.values())).label for side in (above, at_most)]
        yield (
            f"the gates `pass_rate` of terms `{names[0]}` and `{names[1]}` differ in more than their side, "
            "so a prompt may be open to both or none; make threshold, success and without_demonstration equal"
        )
