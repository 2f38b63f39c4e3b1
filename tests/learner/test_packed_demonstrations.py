"""A supervised step packs its demonstrations: as few micro-batches as they fit into, and the same loss."""

import pytest
from learner_batches import MODEL, train

from rlpost.data.collate import collate_demonstrations
from rlpost.data.conversation import unsampled
from rlpost.data.trajectory import Prompt
from rlpost.estimator import build_objective
from rlpost.learner import TorchLearner

LENGTHS = (40, 8, 30, 18, 24, 24, 36, 12, 44, 4)
"""Tokens of prompt and demonstration together: they fill five micro-batches of 48."""


def demonstrations():
    """Prompts of one token, and dialogues of which every other turn is read and not learnt."""
    prompts = []
    for row, length in enumerate(LENGTHS):
        ids = [5 + (7 * row + k) % 200 for k in range(length - 1)]
        cut = len(ids) // 3
        turns = [unsampled(ids[:cut], "", by_policy=True), unsampled(ids[cut : 2 * cut], "", by_policy=False)]
        last = unsampled(ids[2 * cut :], "", by_policy=True)
        prompts.append(Prompt(str(row), "", (5,), demonstration=(*turns, last)))
    return prompts


@pytest.mark.parametrize("name", ["sft", "dft"])
def test_demonstrations_fill_their_microbatches_and_the_loss_is_that_of_one_row_at_a_time(name):
    inputs, batch = collate_demonstrations(demonstrations())
    assert tuple(inputs.lengths) == LENGTHS
    objective = build_objective({"base": name})
    prepared = objective.prepare(batch)
    reports = {}
    for layout, limit in (("packed", 48), ("packed", 1000), ("padded", 1)):
        learner = TorchLearner(MODEL, train(layout=layout, tokens_per_microbatch=limit), seed=0)
        learner.start_stage(train(layout=layout, tokens_per_microbatch=limit), False)
        reports[layout, limit] = learner.update(inputs, prepared, objective, 1.0)
    counts = {key: report["learner/microbatches"] for key, report in reports.items()}
    assert counts == {("packed", 48): 5, ("packed", 1000): 1, ("padded", 1): 10}
    trained = int(batch.mask_N.sum())
    for report in reports.values():
        assert report["learner/trained_tokens"] == trained < batch.N
        for measure in ("policy/loss", "learner/grad_norm", "demonstrations/logprob_mean"):
            assert report[measure] == pytest.approx(reports["padded", 1][measure], rel=1e-5)
