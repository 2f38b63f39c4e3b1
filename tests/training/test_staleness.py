"""Sampling ahead in whole runs: with a bound of 0 it is the plain loop, above that samples are older."""

import json

import pytest

from rlpost.monitor import read_metrics
from rlpost.rollout.task import RolloutTask, sample_seed, sampling_settings
from rlpost.training import run as training
from rlpost.training.rounds import gather
from rlpost.training.sources import step_data

CORRECTED = "stages.rl.algorithm={base: grpo, correction: [{truncated: {}}]}"


class PlainRollouts:
    """A step as one reads it in a paper: sample all, score all, in one call each."""

    def __init__(self, run, stage, workers, scorer):
        self.run, self.stage, self.workers, self.scorer = run, stage, workers, scorer

    def collect(self, sampler, objective, state):
        metrics = self.workers.sync(self.run.learners, state.version)

        def sample(prompts):
            settings, seed = sampling_settings(self.stage.rollout), self.run.config.seed
            tasks = [
                RolloutTask(
                    f"{self.stage.name}-{state.stage_step + 1:06d}-{prompt.id}-{k:03d}",
                    prompt,
                    sample_seed(seed, self.stage.name, state.stage_step + 1, prompt.id, k),
                    settings,
                )
                for prompt in prompts
                for k in range(self.stage.train.samples_per_prompt)
            ]
            return self.scorer.score(self.workers.group.call(0, "rollout", tasks))

        gathered = gather(sampler, sample, objective, self.stage.train.prompts_per_step)
        data = step_data(gathered, objective, self.stage, metrics, state.version)
        return data.drawn(sampler.state_dict(), sampler.epoch)


def learnt(path):
    """What a step's training came to, step by step."""
    names = ("reward/mean", "policy/loss", "learner/grad_norm", "rollout/response_tokens_mean")
    return [{name: row.get(name) for name in names} for row in read_metrics(path)]


def sampled(path):
    """Every sample of the run, by its step's file."""
    keep = ("id", "prompt_id", "seed", "text", "reward")
    return {
        file.name: [{k: r[k] for k in keep} for r in map(json.loads, file.read_text().splitlines())]
        for file in sorted((path / "rollouts").iterdir())
    }


def prompts_of(path):
    return {name: [r["id"] for r in rows] for name, rows in sampled(path).items()}


def test_a_bound_of_zero_is_the_plain_synchronous_loop(finished, small_config, tmp_path, monkeypatch):
    made = []

    def plain(self, run, stage):
        self.workers.configure(stage.rollout)
        made.append(PlainRollouts(run, stage, self.workers, self.line.scorer))
        return made[-1]

    monkeypatch.setattr(training.Sampling, "source", plain)
    path = training.train(small_config(), tmp_path / "run")
    assert len(made) == 1
    assert learnt(path) == learnt(finished)


@pytest.mark.parametrize("staleness", [1, 2])
def test_samples_are_at_most_as_old_as_the_bound_and_of_the_same_prompts(
    finished, small_config, tmp_path, staleness
):
    path = training.train(
        small_config(f"stages.rl.train.max_staleness={staleness}", CORRECTED), tmp_path / "run"
    )
    lags = [row["rollout/version_lag_max"] for row in read_metrics(path) if row["stage"] == "rl"]
    assert lags[0] == 0
    assert 0 < max(lags) <= staleness
    assert prompts_of(path) == prompts_of(finished)
    first = min(sampled(path))
    assert sampled(path)[first] == sampled(finished)[first]


def test_weights_that_come_in_flight_leave_a_response_with_several_versions(small_config, tmp_path):
    # Three slots for 16 responses a step: whenever a batch is complete, others are in the middle.
    path = training.train(
        small_config("stages.rl.train.max_staleness=2", "stages.rl.rollout.slots=3", CORRECTED),
        tmp_path / "run",
    )
    versions = [
        turn["versions"]
        for file in (path / "rollouts").iterdir()
        for record in map(json.loads, file.read_text().splitlines())
        for turn in record["turns"]
    ]
    assert all(v == sorted(v) for v in versions)
    assert any(v[0] < v[-1] for v in versions)
