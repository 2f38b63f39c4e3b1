import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from critic_batches import PLANS
from forked_ranks import run_ranks
from learner_batches import MODEL, arguments_of_row, flat_gradient, train, update_arguments
from rank_process import critic_reports, main, scaled
from safetensors.torch import load_file

from rlpost.errors import DeadlineError
from rlpost.estimator import ALGORITHMS
from rlpost.learner import TorchLearner
from rlpost.learner.ranks import Ranks
from rlpost.weights.communicator import Host


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_make_the_update_that_one_alone_makes(world_size, tmp_path):
    ends = run_ranks(main, world_size, tmp_path, tmp_path)
    assert [status for status, _ in ends] == [0] * world_size, "\n".join(output for _, output in ends)
    facts = [json.loads((tmp_path / f"facts-{rank}.json").read_text()) for rank in range(world_size)]
    assert (0 in facts[0]["rows"]) == (world_size == 4)

    alone = TorchLearner(MODEL, train(), seed=0)
    inputs, prepared, objective, temperature = update_arguments()
    few = inputs.rows([0, 1, 2]), prepared.rows(torch.tensor([0, 1, 2])), objective, temperature
    reports = {"few": alone.update(*few), "report": alone.update(*update_arguments(1))}
    for key, needed in reports.items():
        for found in facts:
            assert found[key] == facts[0][key]
            different = {"learner/microbatches"}
            assert found[key].keys() == needed.keys()
            for name in needed.keys() - different:
                assert found[key][name] == pytest.approx(needed[name], rel=1e-4, abs=1e-5), name

    weights = [load_file(tmp_path / f"weights-{rank}.safetensors") for rank in range(world_size)]
    for name, parameter in alone.policy.model.named_parameters():
        assert all(torch.equal(held[name], weights[0][name]) for held in weights), name
        torch.testing.assert_close(weights[0][name], parameter.detach(), rtol=0, atol=2e-4)

    for found in facts:
        assert f"rank {world_size - 1}: the gradient of model.layers.0.mlp.up_proj.weight" in found["refused"]
        assert found["steps"] == [2.0]
    batches = sorted(path.name for path in (tmp_path / "replay" / "update-000002").glob("*.json"))
    assert batches == [f"batch-rank-{rank:03d}.json" for rank in range(world_size)]
    assert load_file(tmp_path / "state" / "weights.safetensors").keys() == weights[0].keys()

    alone.load(tmp_path / "state")
    alone.policy.model.double()
    alone.accumulate(*update_arguments(1))
    for rank in range(world_size):
        gradients = load_file(tmp_path / f"gradients-{rank}.safetensors")
        for name, parameter in alone.policy.model.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=1e-6)

    # Every row of the table: any number of ranks, any micro-batch, packed or padded, gives the same.
    for layout, limit in (("packed", 48), ("packed", 400), ("padded", 150)):
        alone.start_stage(train(layout=layout, tokens_per_microbatch=limit), reference=False)
        for name in ALGORITHMS:
            arguments = arguments_of_row(name, **scaled(name))
            scaling = alone.scaling(*arguments)
            alone.accumulate(*arguments, scaling.factor)
            assert (scaling.removed_norm > 1e-3) == bool(scaled(name))
            for found in facts:
                assert found["removed"][name] == pytest.approx(scaling.removed_norm, rel=1e-9)
            needed = flat_gradient(alone.policy.model)
            assert needed.abs().max() > 1e-4, name
            for rank in range(world_size):
                found = load_file(tmp_path / f"rows-{rank}.safetensors")[name]
                torch.testing.assert_close(found, needed, rtol=0, atol=1e-9, msg=f"{name}, {layout}, {limit}")

    alone.start_stage(train(), reference=False)
    alone.load(tmp_path / "state", weights_only=True)
    for kind in PLANS:
        needed = critic_reports(alone, kind, 0, 1)
        for found in (ranks["critic"][kind] for ranks in facts):
            for ours, theirs in zip(found, needed, strict=True):
                critic = [{k: v for k, v in r.items() if k.startswith("critic/")} for r in (ours, theirs)]
                assert critic[0] == pytest.approx(critic[1], rel=1e-6), kind


def test_a_rank_that_waits_alone_stops_at_its_deadline(tmp_path):
    with pytest.raises(DeadlineError, match="learner rank 0 could not meet"):
        Ranks(0, 2, f"file://{tmp_path / 'meet'}", deadline_s=1.0)


def meet(rank, world_size, meeting):
    ranks = Ranks(rank, world_size, meeting, deadline_s=60.0)
    assert ranks.gather({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    mine = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # another thread has closed it
            mine.add(str(entry.readlink()))
    for line in listening:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
            assert fields[1].startswith("0100007F:"), "listens beyond loopback"


@pytest.mark.slow
def test_ranks_meet_at_a_store_and_a_second_group_at_a_store_of_its_own(tmp_path):
    for number in range(2):
        host = Host(deadline_s=60.0)
        (tmp_path / str(number)).mkdir()
        ends = run_ranks(meet, 2, tmp_path / str(number), f"tcp://{host.address}:{host.port}")
        assert [status for status, _ in ends] == [0, 0], "\n".join(output for _, output in ends)


def test_where_nobody_keeps_a_store_ranks_stop_at_their_deadline():
    host = Host(deadline_s=1.0)
    place = f"tcp://{host.address}:{host.port}"
    del host
    with pytest.raises(DeadlineError, match="learner rank 1 could not meet"):
        Ranks(1, 2, place, deadline_s=0.2)


def test_one_rank_needs_no_process_group():
    ranks = Ranks()
    assert ranks.gather({"loss": float("inf"), "names": ["a"]}) == [{"loss": float("inf"), "names": ["a"]}]
    with pytest.raises(ValueError, match="rendezvous"):
        Ranks(0, 2)
