"""A learner on one-token rollouts: its gradient is the plain formulas', however the batch is cut."""

from dataclasses import replace

import pytest
import torch
from learner_batches import MODEL, arguments_of_row, flat_gradient, model_inputs, token_batch, train

from rlpost.estimator import build_objective
from rlpost.estimator.one_token import expected_loss, sampled_loss
from rlpost.learner import TorchLearner
from rlpost.learner.heads.token_draws import token_keys, uniforms
from rlpost.models import load_model

EXACT = {"actions": {"one_token": {"form": "exact", "miss": -0.3}}}
FEW = {"actions": {"one_token": {"samples": 8, "miss": -0.3}}}


def learner(layout="packed", limit=48, double=True) -> TorchLearner:
    found = TorchLearner(MODEL, train(layout=layout, tokens_per_microbatch=limit), seed=0)
    if double:
        found.policy.model.double()
    return found


def slow_gradient(model, arguments):
    """From the model's own logits, row by row, with draws over the whole vocabulary at once."""
    inputs, prepared, objective, temperature = arguments
    batch, actions = prepared.batch, objective.actions
    keys = token_keys(batch.sequence_signal("draw_seed"), batch.sequence_N).split(batch.length_S.tolist())
    losses = []
    for prompt, response, key in zip(inputs.prompt_ids, inputs.response_ids, keys, strict=True):
        logits = model(input_ids=torch.cat([prompt, response])[None], use_cache=False).logits[0]
        logits = logits[len(prompt) - 1 : -1] / temperature
        if actions.form == "exact":
            losses.append(expected_loss(logits, response, actions.temperature, actions.miss))
            continue
        q = torch.softmax(logits.detach() / actions.temperature, dim=-1)
        draws = torch.searchsorted(q.cumsum(-1), uniforms(key, actions.samples))
        losses.append(sampled_loss(logits, response, draws, actions.miss))
    total = (torch.cat(losses) * prepared.terms[0].weight_N).sum()
    total.backward()
    return float(total.detach())


@pytest.mark.parametrize("changes", [{}, EXACT, FEW | {"aggregation": "token_mean"}], ids=str)
def test_the_gradient_is_the_plain_formulas_for_every_way_to_cut_the_batch(changes):
    arguments = arguments_of_row("otr", **changes)
    plain = load_model(MODEL, seed=0).double()
    loss = slow_gradient(plain, arguments)
    needed = flat_gradient(plain)
    assert float(needed.abs().max()) > 1e-3
    for layout, limit in (("packed", 400), ("packed", 30), ("padded", 150), ("padded", 1)):
        trained = learner(layout, limit)
        report = trained.accumulate(*arguments).measures.values()
        torch.testing.assert_close(flat_gradient(trained.policy.model), needed, rtol=0, atol=1e-9)
        assert report["policy/loss"] == pytest.approx(loss, abs=1e-9)
        assert 0 < report["otr/hit_share"] < 0.1 < report["otr/miss_term_share"] < 1
        assert ("otr/no_hit_share" in report) == (changes != EXACT)


@pytest.mark.parametrize("changes", [EXACT, FEW], ids=str)
def test_in_float32_the_gradient_is_the_same_for_every_way_to_cut_the_batch(changes):
    arguments, found = arguments_of_row("otr", **changes), []
    for layout, limit in (("packed", 400), ("packed", 30), ("padded", 40)):
        trained = learner(layout, limit, double=False)
        trained.accumulate(*arguments)
        found.append(flat_gradient(trained.policy.model))
    for gradient in found[1:]:
        torch.testing.assert_close(gradient, found[0], rtol=0, atol=1e-6)


def test_a_learner_that_was_saved_and_loaded_draws_what_it_would_have_drawn(tmp_path):
    arguments = arguments_of_row("otr")
    straight, resumed = learner(double=False), learner(double=False)
    straight.update(*arguments)
    straight.save(tmp_path)
    torch.rand(1)  # no state of a generator is part of it
    resumed.load(tmp_path)
    torch.manual_seed(1)
    assert resumed.update(*arguments) == straight.update(*arguments)


def test_beside_rollouts_the_gradient_is_the_sum_of_those_of_both_terms():
    inputs = model_inputs()
    batch = token_batch(inputs)
    batch = replace(
        batch,
        demonstration_S=torch.arange(batch.S) % 4 == 3,
        sequence_signals={"draw_seed": torch.arange(batch.S, dtype=torch.float64)},
    )
    rollouts = {"base": "grpo"}
    imitate = {
        "advantage": "constant",
        "denominator": "current",
        "mask": "keep",
        "rows": "demonstrations",
        **FEW,
    }
    imitate["aggregation"] = "sequence_mean_token_mean"

    def gradient(spec, limit):
        objective = build_objective(spec, max_response_tokens=32)
        trained = learner(limit=limit)
        trained.accumulate(inputs, objective.prepare(batch), objective, 1.0)
        return flat_gradient(trained.policy.model)

    needed = gradient(rollouts, 400) + gradient({"base": "otr", **FEW}, 400)
    # Some of the smaller micro-batches hold no demonstration.
    for limit in (400, 30):
        found = gradient(rollouts | {"terms": {"demonstrations": imitate}}, limit)
        torch.testing.assert_close(found, needed, rtol=0, atol=1e-9)
