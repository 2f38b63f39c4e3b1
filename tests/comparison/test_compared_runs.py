"""From a plan to runs: what they share, where they lie, which are done already."""

from __future__ import annotations

import pytest

from rlpost.comparison.plan import make_plan
from rlpost.comparison.runs import check_output, pending, runs_of
from rlpost.config import dump_config
from rlpost.config.rules import check
from rlpost.errors import UserError


@pytest.fixture
def runs(recipe, arms_file, tmp_path):
    def make(*overrides, jobs=2, seeds=2):
        plan = make_plan([recipe()], overrides, arms_file=arms_file(), seeds=seeds)
        return runs_of(plan, tmp_path / "out", jobs)

    return make


def finish(run):
    """Leave what marks a run of this recipe as complete."""
    run.directory.mkdir(parents=True)
    (run.directory / "recipe.yaml").write_text(dump_config(run.config))
    (run.directory / "summary.json").write_text("{}")


def test_each_seed_trains_the_shared_stages_once_and_every_arm_starts_from_their_policy(runs, tmp_path):
    found = runs()
    assert [(run.arm, run.seed) for run in found] == [
        *((None, 0), ("grpo", 0), ("rloo", 0)),
        *((None, 1), ("grpo", 1), ("rloo", 1)),
    ]
    shared, grpo, _ = found[:3]
    assert [stage.name for stage in shared.config.stages] == ["warmup"]
    assert [stage.name for stage in grpo.config.stages] == ["rl"]
    assert grpo.needs is shared
    assert grpo.config.model.init == str(shared.directory / "policy")
    assert grpo.directory == tmp_path / "out" / "runs" / "sums" / "grpo" / "seed-0"
    assert found[4].config.model.init == str(tmp_path / "out" / "shared" / "sums" / "seed-1" / "policy")
    assert (found[4].config.seed, found[4].config.evaluation.problems) == (1, 6)


def test_the_recipes_of_all_runs_are_valid_also_when_only_later_stages_are_rewarded(runs):
    assert [check(run.config) for run in runs()] == [[]] * 6


def test_several_runs_at_a_time_get_one_thread_each(runs):
    assert {run.config.cluster.threads for run in runs(jobs=2)} == {1}
    assert {run.config.cluster.threads for run in runs(jobs=1)} == {None}


def test_complete_runs_are_not_trained_again_nor_shared_stages_that_nobody_needs(runs):
    found = runs()
    assert pending(found) == found
    finish(found[1])
    assert [(run.arm, run.seed) for run in pending(found)][:2] == [(None, 0), ("rloo", 0)]
    finish(found[2])
    assert [(run.arm, run.seed) for run in pending(found)] == [(None, 1), ("grpo", 1), ("rloo", 1)]


def test_an_interrupted_run_is_trained_on(runs):
    found = runs()
    finish(found[1])
    (found[1].directory / "summary.json").unlink()
    assert found[1] in pending(found)


def test_what_does_not_touch_a_result_may_change_between_calls(runs):
    for run in runs(jobs=2):
        finish(run)
    assert pending(runs("checkpoint.every=7", jobs=1)) == []


def test_a_directory_with_a_run_of_another_recipe_is_refused_and_the_key_named(runs):
    finish(runs()[1])
    with pytest.raises(UserError) as refused:
        pending(runs("stages.rl.train.steps=9"))
    assert "grpo/seed-0" in str(refused.value)
    assert "stages.0.train.steps" in str(refused.value)


def test_a_directory_with_anything_else_is_refused(runs, tmp_path):
    output = tmp_path / "other"
    check_output(output)
    output.mkdir()
    check_output(output)
    (output / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="something else than a comparison"):
        check_output(output)
    (output / "runs").mkdir()
    check_output(output)
    stray = runs()[1].directory
    stray.mkdir(parents=True)
    (stray / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="has no recipe"):
        pending(runs())
