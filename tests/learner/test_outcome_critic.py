"""A critic whose head is "outcome": a token reward model, learnt from right and wrong alone."""

import math

import pytest
import torch
from critic_batches import PLANS, credited, outcome_arguments, plan
from learner_batches import MODEL, model_inputs, token_batch, train
from rank_process import rows_of
from torch.nn.functional import logsigmoid

from rlpost.data.collate import ModelInputs
from rlpost.learner import TorchLearner


def learner(critic=PLANS["outcome"], **changes) -> TorchLearner:
    made = TorchLearner(MODEL, train(**changes), seed=0)
    made.start_stage(train(**changes), False, critic)
    return made


def stir(critic) -> None:
    """A head that is not zero."""
    with torch.no_grad():
        for parameter in critic.network.get_submodule("head").parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))


def slow_loss(logit_N, prepared):
    """The mean cross-entropy, sequence by sequence, and how many are told rightly."""
    batch, losses, told = prepared.batch, [], 0
    for s in range(batch.S):
        own = [i for i in range(batch.N) if batch.sequence_N[i] == s and batch.mask_N[i]]
        if own:
            mean = sum(logit_N[i] for i in own) / len(own)
            right = float(batch.reward_S[s]) == 1.0
            losses.append(-logsigmoid(mean if right else -mean))
            told += (float(mean.detach()) > 0) == right
    return sum(losses) / len(losses), told / len(losses)


def test_a_zero_head_lets_nothing_through_until_it_has_learnt():
    made, (inputs, prepared, *_) = learner(), outcome_arguments()
    logits = made.signals(inputs, ["outcome"], 1.0)["outcome"]
    assert logits.shape == (prepared.batch.N,) and not logits.any()
    fresh = outcome_arguments(logits=logits)
    assert not fresh[1].has_signal
    report = made.update(*fresh, values_only=True)
    assert report["critic/outcome_loss"] == pytest.approx(math.log(2.0), abs=1e-6)
    assert "policy/loss" not in report and "critic/loss" not in report
    assert made.updates == 0
    learnt = outcome_arguments(logits=made.signals(inputs, ["outcome"], 1.0)["outcome"])
    assert learnt[1].has_signal
    assert made.update(*learnt)["critic/outcome_loss"] < math.log(2.0)


@pytest.mark.parametrize("shared", [False, True])
def test_the_gradient_is_the_slow_loss_s_for_every_way_to_cut_the_batch(shared):
    chosen = plan(credited(), value_clip=None, shared=shared, coefficient=0.5 if shared else 0.1)
    made, arguments = learner(), outcome_arguments()
    made.policy.model.double()
    needed = None
    for layout, limit in (("packed", 17), ("packed", 10_000), ("padded", 70)):
        made.start_stage(train(layout=layout, tokens_per_microbatch=limit), False, chosen)
        stir(made.critic)
        made.policy.model.zero_grad()
        measures = made.critic.accumulate(*arguments[:2], alone=False)
        made.critic.summed_norm()
        parameters = list(made.critic.network.parameters())
        if shared:
            parameters += made.policy.model.get_decoder().parameters()
        found = torch.cat([p.grad.flatten() for p in parameters])
        if needed is None:
            made.policy.model.zero_grad()
            loss, told = slow_loss(made.critic._values(arguments[0])[:, 0], arguments[1])
            slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
            head = 2 if shared else len(slopes)
            scaled = [g if k < head else g * chosen.settings.coefficient for k, g in enumerate(slopes)]
            needed = torch.cat([g.flatten() for g in scaled])
            assert needed.abs().max() > 1e-2
        report = measures.values()
        assert report["critic/outcome_loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert report["critic/outcome_accuracy"] == pytest.approx(told)
        torch.testing.assert_close(found, needed, rtol=1e-5, atol=1e-6)


def test_it_learns_which_token_makes_a_response_wrong():
    """The token 8 is in every wrong response, somewhere, and in no right one."""
    made, generator = learner(plan(credited(), value_clip=None, learning_rate=5e-3)), torch.Generator()
    generator.manual_seed(0)
    reports = []
    for _ in range(25):
        right = torch.arange(24) % 2
        ids = torch.randint(20, 40, (24, 5), generator=generator)
        places = torch.randint(0, 4, (24,), generator=generator)
        for row in right.logical_not().nonzero()[:, 0]:
            ids[row, places[row]] = 8
        inputs = ModelInputs(tuple(torch.tensor([7]) for _ in ids), tuple(ids))
        batch = token_batch(inputs)
        batch.reward_S.copy_(right.double())
        batch.mask_N[:] = True
        batch.sequence_signals["draw_seed"] = torch.arange(24, dtype=torch.float64)
        logits = made.signals(inputs, ["outcome"], 1.0)
        prepared = credited().prepare(batch.with_signals(**logits))
        reports.append(made.update(inputs, prepared, credited(), 1.0, values_only=True))
    assert reports[-1]["critic/outcome_accuracy"] > 0.9
    assert reports[-1]["critic/outcome_loss"] < 0.5 * reports[0]["critic/outcome_loss"]
    # The logits after the token are lower than before it.
    logit_RT = logits["outcome"].view(24, 5)
    wrong = [r for r in range(0, 24, 2) if 0 < places[r] < 4]
    gaps = [float(logit_RT[r, places[r] + 1 :].mean() - logit_RT[r, : places[r] + 1].mean()) for r in wrong]
    assert len(gaps) > 3 and max(gaps) < 0.0


def test_it_is_saved_and_taken_up_and_a_batch_without_sampled_tokens_teaches_it_nothing(tmp_path):
    made = learner()
    for step in range(2):
        made.update(*outcome_arguments(step), values_only=step == 0)
    made.save(tmp_path / "state")
    needed = made.update(*outcome_arguments(2))
    again = learner()
    again.load(tmp_path / "state")
    assert again.update(*outcome_arguments(2)) == needed
    assert len(model_inputs().response_ids[5]) == 0
    nothing = made.update(*rows_of(outcome_arguments(), [5]), values_only=True)
    assert nothing["critic/grad_norm"] == 0.0 and "critic/outcome_accuracy" not in nothing
