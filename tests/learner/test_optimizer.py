import pytest
import torch
from learner_batches import MODEL, train

from rlpost.learner.optimizer import build_optimizer, clip_gradients, gradient_norm, learning_rate
from rlpost.models import load_model


@pytest.mark.parametrize(
    ("schedule", "needed"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]),
        ("cosine", [0.5, 1.0, 1.0, 0.8535534, 0.5, 0.1464466, 0.0]),
    ],
)
def test_the_learning_rate_warms_up_and_falls_over_the_updates_of_the_stage(schedule, needed):
    # Three steps of two updates: updates 0 to 5; the seventh is past the stage's end.
    settings = train(learning_rate=1.0, schedule=schedule, warmup_steps=2, steps=3, updates_per_step=2)
    assert [learning_rate(settings, update) for update in range(7)] == pytest.approx(needed, abs=1e-7)


def test_weight_decay_leaves_biases_and_norms_alone():
    model = load_model(MODEL, seed=0)
    vectors = {name: p.detach().clone() for name, p in model.named_parameters() if p.ndim < 2}
    matrices = {name: p.detach().clone() for name, p in model.named_parameters() if p.ndim >= 2}
    optimizer = build_optimizer(model, train(learning_rate=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        if name in vectors:
            assert torch.equal(parameter, vectors[name]), name
        else:
            torch.testing.assert_close(parameter.detach(), matrices[name] * 0.95)
    assert len(vectors) > 0
    assert len(matrices) > 0


def test_clipping_scales_all_gradients_by_one_factor():
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    norm = gradient_norm(parameters)
    assert norm.item() == pytest.approx(5.0)
    clip_gradients(parameters, 10.0, norm)
    assert parameters[0].grad.tolist() == [3.0, 0.0]
    clip_gradients(parameters, 1.0, norm)
    assert parameters[0].grad.tolist() == pytest.approx([0.6, 0.0], abs=1e-5)
    assert parameters[1].grad.tolist() == pytest.approx([0.8], abs=1e-5)
