"""The plan in words, and the page generated from the schema."""

from __future__ import annotations

import pytest

from rlpost.config import explain, load_config
from rlpost.config.reference import render

RECIPE = """\
name: plan
model: {init: some/model, dtype: bfloat16}
data: {path: train.jsonl, max_prompt_tokens: 1024, overlong_prompts: drop}
rewards: [gsm8k, {function: format_tags, weight: 0.5}]
algorithm: {base: grpo, kl: 0.001}
rollout: {workers: 4, max_response_tokens: 1024}
train:
  steps: 100
  prompts_per_step: 64
  samples_per_prompt: 8
  updates_per_step: 2
  warmup_steps: 10
  schedule: cosine
cluster: {mode: ray, learner_ranks: 2, deadline_s: 600}
evaluation:
  data: {path: test.jsonl}
  every: 20
  temperature: 0
"""

PLAN = """\
run `plan`
  model       some/model; bfloat16
  seed        0
  runs on     a Ray cluster that is started on this machine and bound to loopback
  placement   split: 2 learner ranks x 1 + 4 rollout workers x 1 = 6 accelerators; without any, all on the CPU
  weights     on one host engines read the learner's memory, on several the learner sends to all at once;
              each transfer to an engine is proven by its version and a checksum of every tensor,
              the first and one in 50 also by log-probs of a probe, at most 0.5 nats apart
  failures    a process that ends, or is silent for 60 s, is lost;
              more than 3 within a step end the run with the cause
              a lost rollout worker is replaced, and what it had not finished is sampled anew
              a lost learner rank takes all ranks back to the last checkpoint
  deadlines   600 s for any one answer, 600 s for a weight transfer; who waits for whom is shown after 120 s
  scoring     2 processes, 5 s a sample; the run stops when more than 20% of a step fail to score
  evaluation  test.jsonl: all problems, 1 response each, greedy; before, every 20 steps and after
  checkpoint  every 50 steps and at each stage's end, newest 2 kept

stage 1 of 1: `train`
  learns from sampled responses, temperature 1, at most 1024 tokens, 4 workers x 64 slots
  data        train.jsonl; template auto; prompts above 1024 tokens are dropped and counted
  rewards     1 x gsm8k + 0.5 x format_tags
  each step   64 prompts x 8 samples = 512 sequences
              2 updates of 256 sequences, at most 128 on each of 2 ranks
              at most 16 micro-batches of 16384 tokens an update and rank \
(a sequence has at most 1024 + 1024 = 2048 tokens, so 8 always fit)
  schedule    sampling and updates take turns: every token comes from the weights that it trains
  signals     forward passes before the updates: one of the policy for old_logprob, \
one of the reference for ref_logprob
  in total    100 steps, 6400 prompts, 51200 samples, 200 updates; epochs depend on the data's size
  optimizer   AdamW, learning rate 1e-06, 10 updates of warm-up, then down to 0 along a cosine; \
gradient norm clipped at 1
  objective   grpo
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_the_plan_prints_the_batch_arithmetic_in_words(recipe):
    text = explain(load_config(recipe))
    assert text.startswith(PLAN)
    assert "\n              advantage    A_i = (R_i - mean(R))" in text
    assert "\n              regulariser  " in text


def test_one_of_a_thing_is_not_called_many(recipe):
    overrides = [
        "cluster.learner_ranks=1",
        "train.prompts_per_step=1",
        "train.updates_per_step=1",
        "train.steps=1",
    ]
    text = explain(load_config(recipe, overrides))
    assert "1 prompt x 8 samples = 8 sequences\n              1 update of 8 sequences\n" in text
    assert "at most 1 micro-batch of 16384 tokens an update (" in text
    assert "1 step, 1 prompt, 8 samples, 1 update;" in text


def test_a_share_that_does_not_divide_by_the_ranks_is_rounded_up(recipe):
    text = explain(load_config(recipe, ["cluster.learner_ranks=3"]))
    assert "2 updates of 256 sequences, at most 86 on each of 3 ranks" in text
    assert "at most 11 micro-batches" in text  # 86 / 8 = 10.75


def test_a_cut_sampling_distribution_and_an_endless_warm_up_are_noted(recipe):
    text = explain(load_config(recipe, ["rollout.top_p=0.9", "train.steps=2"]))
    assert "note        top_p and top_k cut the distribution" in text
    assert "the warm-up of 10 updates is not over after the stage's 4 updates" in text
    assert "note " not in explain(load_config(recipe))


def test_what_an_objective_asks_for_beside_its_samples_is_in_the_plan(recipe):
    one_update = ["train.updates_per_step=1", "algorithm.kl=0"]
    assert "  signals " not in explain(load_config(recipe, one_update))
    dapo = explain(load_config(recipe, ["algorithm.base=dapo", *one_update]))
    assert (
        "  refill      until 64 groups can teach something, in at most 8 rounds:\n"
        "              at most 512 prompts x 8 samples = 4096 samples a step\n"
    ) in dapo
    d3s = explain(load_config(recipe, ["algorithm.base=d3s"]))
    assert "one of the policy for entropy and old_logprob" in d3s
    assert "  greedy      one more response of each prompt" in explain(
        load_config(recipe, ["algorithm.base=remax", *one_update])
    )
    assert "  history     " in explain(load_config(recipe, ["algorithm.base=dcpo"]))


def test_sampling_ahead_is_said_in_steps_batches_and_sequences(recipe):
    ahead = ["train.max_staleness=1", "algorithm.correction={truncated: {}}"]
    assert (
        "  schedule    steps are sampled up to 1 step ahead: a token is at most 1 step older "
        "than the weights it trains;\n              at most 2 batches = 1024 sequences are open\n"
    ) in explain(load_config(recipe, ahead))
    further = explain(load_config(recipe, [*ahead, "train.max_staleness=4"]))
    assert "up to 4 steps ahead: a token is at most 4 steps older" in further
    assert "at most 5 batches = 2560 sequences are open" in further
    dapo = explain(load_config(recipe, [*ahead, "algorithm.base=dapo"]))
    assert "one of them incomplete: only a full batch lets the next begin" in dapo


def test_accelerators_are_counted_for_ranks_and_engines(recipe):
    vllm = ["rollout.engine=vllm", "rollout.vllm.tensor_parallel=2"]
    split = explain(load_config(recipe, vllm))
    assert (
        "placement   split: 2 learner ranks x 1 + 4 rollout workers x 2 = 10 accelerators; "
        "without any, all on the CPU\n"
    ) in split
    assert "              vLLM: 900 s to start, 300 s without progress\n" in split
    assert (
        "placement   colocated: 2 learner ranks x 1 and 4 rollout workers x 2 share 8 accelerators; "
        "without any, all on the CPU;\n"
        "              engines give up their memory while the learner works\n"
    ) in explain(load_config(recipe, [*vllm, "cluster.placement=colocated"]))


def test_what_cannot_happen_is_not_in_the_plan(recipe):
    inline = ["cluster.mode=inline", "cluster.learner_ranks=1", "rollout.workers=1"]
    text = explain(load_config(recipe, inline))
    assert "runs on     this process (cluster.mode: inline)\n  weights     each transfer" in text
    for label in ("placement", "failures", "deadlines"):
        assert f"  {label} " not in text
    never = explain(load_config(recipe, ["cluster.max_restarts=0", "weights.probe_every=1"]))
    assert "is silent for 60 s, is lost, and the run ends with the cause\n  deadlines" in never
    assert "every one also by log-probs of a probe" in never


def test_a_supervised_run_without_evaluations_sends_no_weights(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: {init: tiny}\n"
        "data: {path: train.jsonl, demonstration_column: text}\n"
        "algorithm: sft\n"
        "stages: [{name: only, source: demonstrations, train: {samples_per_prompt: 1}}]\n"
        "cluster: {mode: ray}\n"
    )
    text = explain(load_config(path))
    for absent in ("  weights ", "weight transfer", "  schedule "):
        assert absent not in text


def test_a_task_is_evaluated_on_its_own_held_out_split(project_root):
    text = explain(load_config(project_root / "configs/quickstart.yaml"))
    assert "task addition, its held-out split: the first 500 problems" in text
    assert "sampled at temperature 1" in text


def test_demonstrations_are_not_bounded_by_what_is_sampled(project_root):
    lab = project_root / "configs/lab/lookup.yaml"
    assert "(a sequence has at most 128 tokens, which the model reads, so 128 always fit)" in explain(
        load_config(lab, ["rollout.max_response_tokens=2"])
    )
    text = explain(
        load_config(
            lab,
            [
                "model.init=some/model",
                "stages=[{name: only, source: demonstrations, algorithm: sft, "
                "train: {samples_per_prompt: 1}}]",
            ],
        )
    )
    assert "micro-batches of 16384 tokens an update (demonstrations are as long as the data has them)" in text


def test_without_held_out_problems_the_plan_says_so(recipe):
    assert "evaluation  none: no evaluation.data" in explain(load_config(recipe, ["evaluation.data=null"]))


def test_the_weights_way_to_the_engines_is_named(recipe):
    ray = "cluster.mode=ray"
    text = explain(load_config(recipe, [ray]))
    assert "on one host engines read the learner's memory" in text
    assert "on several the learner sends to all at once" in text
    text = explain(load_config(recipe, [ray, "weights.transport=object_store"]))
    assert "Ray carries a copy to each engine" in text and "memory;" not in text


def test_adapters_and_their_memory_are_in_the_plan(recipe):
    assert "adapters" not in explain(load_config(recipe))
    text = explain(load_config(recipe, ["model.lora={}"]))
    assert "LoRA of rank 16 beside all linear layers of the decoder, scale 32 / 16 = 2;" in text
    assert "parameters, x" not in text
    tiny = ["model.init=tiny", "model.lora={rank: 4, rslora: true, target_modules: [q_proj, up_proj]}"]
    # Per block, q is 128 x 128 and up 128 x 512.
    assert "4 blocks x 4 x 896 = 14336 parameters, x 16 bytes = 224 KiB" in explain(load_config(recipe, tiny))
    zero = ["learner.backend=deepspeed", "learner.zero_stage=2", "model.lora={}"]
    assert "moments and gradients are divided over the 2 ranks" in explain(load_config(recipe, zero))


def test_the_configuration_page_is_current(project_root):
    page = project_root / "docs/configuration.md"
    assert page.read_text() == render(), "run `make docs`"


def test_every_key_has_a_meaning():
    tables = [line for line in render().splitlines() if line.startswith("| `")]
    assert len(tables) > 80
    assert not [line for line in tables if line.endswith("|  |")]
