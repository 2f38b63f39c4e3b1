"""Manifests for Kubernetes: what they say, held against the published schemas, and what their scripts do."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from typer.testing import CliRunner

from rlpost.cli import app
from rlpost.config import load_config
from rlpost.errors import ConfigError, UserError
from rlpost.launch import Job, make_job
from rlpost.launch.kubernetes_files import as_block, config_files
from rlpost.launch.kubernetes_job import (
    KubernetesJob,
    job_name,
    label_value,
    render_kubernetes,
    unseen,
)

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BASE = ROOT / "launch" / "kubernetes" / "base"
RECIPE = ROOT / "configs" / "quickstart.yaml"
NOW = datetime(2026, 1, 2, 3, 4, 5)
VOLUME = "launch.kubernetes.volumes=[{claim: runs, path: /runs}]"
IMAGE = "launch.kubernetes.image=registry.example/rlpost:0.1.0"
SMALL = (IMAGE, "machines.accelerators=0", "machines.cpus=4", "machines.memory_gib=8.5", VOLUME)
LARGE = (
    *("launch.kubernetes.image=registry.example/rlpost:0.1.0-gpu", VOLUME, "machines.count=4"),
    *(
        "machines.accelerators=8",
        "machines.cpus=64",
        "machines.memory_gib=512",
        "machines.shared_memory_gib=64",
    ),
    *("launch.kubernetes.namespace=research", "launch.kubernetes.queue=team-a"),
    *("launch.kubernetes.pull_secret=registry", "launch.kubernetes.service_account=trainer"),
    "launch.kubernetes.node_selector={accelerator: h100}",
    "launch.environment={NCCL_DEBUG: WARN, HF_HOME: /runs/hf}",
    "launch.setup=['source /opt/site/profile', 'export NCCL_SOCKET_IFNAME=eth0']",
    *("rewards=rewards/by_hand.py", "stages.rl.train.steps=7"),
)


@functools.cache
def launched(root: Path, *overrides: str, run_id: str = "quickstart-20260102-030405-ab12") -> KubernetesJob:
    (root / "rewards").mkdir(exist_ok=True)
    (root / "rewards" / "by_hand.py").write_text(
        "import words\n\ndef reward(completion, answer):\n    return words.same(completion, answer)\n"
    )
    (root / "rewards" / "words.py").write_text("def same(a, b):\n    return float(a == b)\n")
    (root / "rewards" / "unused.py").write_text("raise RuntimeError\n")
    job = make_job(RECIPE, overrides, "kubernetes", Path(f"/runs/{run_id}"), NOW)
    job = Job(run_id, job.config, job.directory)
    return render_kubernetes(job, root, Path("runs") / run_id / "launch")


@functools.cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    """Strict: where the API server would drop an unknown field, this one refuses it."""
    schemas = HERE / "schemas"
    kubernetes = json.loads((schemas / "kubernetes-v1.35.0.json").read_text())
    resource = Resource.from_contents(kubernetes, default_specification=DRAFT202012)
    registry = Registry().with_resource("kubernetes-v1.35.0.json", resource)
    if kind == "RayJob":
        schema = strict(parsed((schemas / "kuberay-rayjob-v1.yaml").read_text()))
        schema["properties"]["metadata"] = {
            "$ref": "kubernetes-v1.35.0.json#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        }
    else:
        schema = {"$ref": f"kubernetes-v1.35.0.json#/$defs/io.k8s.api.core.v1.{kind}"}
    return jsonschema.Draft202012Validator(schema, registry=registry)


def strict(node: Any) -> Any:
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    closed = {"additionalProperties": False} if isinstance(node.get("properties"), dict) else {}
    return closed | {key: strict(value) for key, value in node.items()}


def complaints(manifest: dict[str, Any]) -> list[str]:
    return [error.message for error in validator(manifest["kind"]).iter_errors(manifest)]


def parsed(text: str) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def manifests(job: KubernetesJob) -> tuple[dict[str, Any], dict[str, Any]]:
    config_map, ray_job = (parsed(text) for text in job.rendered.files.values())
    return config_map, ray_job


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of all launches."""
    return tmp_path_factory.mktemp("launched")


def pods(ray_job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = ray_job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    return [group["template"]["spec"] for group in groups]


@pytest.mark.parametrize(("case", "overrides"), [("one-cpu", SMALL), ("four-with-eight-gpus", LARGE)])
def test_manifests_are_the_golden_ones_and_valid_in_the_published_schemas(
    folder: Path, case: str, overrides: tuple[str, ...]
) -> None:
    job = launched(folder, *overrides)
    golden = HERE / "golden" / f"kubernetes-{case}.yaml"
    text = "---\n".join(job.rendered.files.values())
    # A recipe is resolved, and grows with every key that rlpost gets: it is read in another test.
    text = text.replace(as_block(manifests(job)[0]["data"]["recipe.yaml"]), "the recipe")
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text(), f"UPDATE_GOLDEN=1 pytest writes {golden.name} anew"
    assert [complaints(manifest) for manifest in manifests(job)] == [[], []]
    assert job.rendered.commands == [
        [
            "kubectl",
            "apply",
            *("-f", f"runs/{job.name}/launch/configmap.yaml"),
            *("-f", f"runs/{job.name}/launch/rayjob.yaml"),
        ]
    ]


def test_a_typo_in_any_field_of_a_manifest_fails_in_the_schemas(folder: Path) -> None:
    config_map, ray_job = manifests(launched(folder, *LARGE))
    places = 0

    def misspelt(node: Any, whole: dict[str, Any], path: tuple[Any, ...] = ()) -> None:
        nonlocal places
        if isinstance(node, list):
            for index, item in enumerate(node[:1]):
                misspelt(item, whole, (*path, index))
        if isinstance(node, dict):
            free = path[-1:] in [(name,) for name in ("labels", "annotations", "limits", "requests", "data")]
            for key in [] if free or path[-1:] == ("nodeSelector",) else list(node):
                misspelt(node[key], whole, (*path, key))
                node[f"{key}s"] = node.pop(key)
                assert not validator(whole["kind"]).is_valid(whole), f"{path}: {key}s is not refused"
                node[key] = node.pop(f"{key}s")
                places += 1

    misspelt(ray_job["spec"]["rayClusterSpec"]["headGroupSpec"], ray_job)
    misspelt(config_map["metadata"], config_map)
    assert places == 56
    ray_job["spec"]["ttlSecondsAfterFinished"] = "30"
    assert complaints(ray_job) == ["'30' is not of type 'integer'"]


def test_pods_have_what_the_recipe_says_of_machines_and_no_privilege(folder: Path) -> None:
    config_map, ray_job = manifests(launched(folder, *LARGE))
    spec, (head, worker) = ray_job["spec"], pods(ray_job)
    assert spec["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 3, "the head is the fourth"
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert spec["suspend"] is True
    assert ray_job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    for pod in (head, worker):
        container = pod["containers"][0]
        assert (
            container["resources"]["requests"]
            == container["resources"]["limits"]
            == {
                "cpu": 64,
                "memory": "512Gi",
                "nvidia.com/gpu": 8,
            }
        )
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        assert environment["RLPOST_RUN_ID"] == "quickstart-20260102-030405-ab12"
        assert environment["RLPOST_LAUNCHER"] == "kubernetes:quickstart-20260102-030405-ab12"
        assert environment["HF_HOME"] == "/runs/hf"
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Gi"}
        assert volumes["volume-1"]["persistentVolumeClaim"] == {"claimName": "runs"}
        # A checkpoint has checkpoint.grace_s, 120 s, and every wait around it is longer than the one within.
        assert 120 < int(environment["RLPOST_STOP_S"]) < pod["terminationGracePeriodSeconds"]
        assert container["args"][0].startswith("set -e\nsource /opt/site/profile\n")
    keys = {item["path"]: item["key"] for item in head["volumes"][0]["configMap"]["items"]}
    assert set(keys) == {
        *("recipe.yaml", "start.sh", "drain.sh"),
        *("files/rewards/by_hand.py", "files/rewards/words.py"),
    }
    assert set(keys.values()) == set(config_map["data"])
    recipe = parsed(config_map["data"]["recipe.yaml"])
    assert [stage["rewards"][0]["function"] for stage in recipe["stages"]] == ["rewards/by_hand.py"] * 2
    assert recipe["stages"][1]["train"]["steps"] == 7


def test_one_machine_is_a_head_alone(folder: Path) -> None:
    _, ray_job = manifests(launched(folder, *SMALL))
    assert "workerGroupSpecs" not in ray_job["spec"]["rayClusterSpec"]
    (head,) = pods(ray_job)
    assert head["containers"][0]["resources"]["limits"] == {"cpu": 4, "memory": "8704Mi"}
    assert "tolerations" not in head
    assert "suspend" not in ray_job["spec"]


def test_names_and_labels_are_what_kubernetes_takes() -> None:
    import re

    ids = [
        "quickstart-20260102-030405-ab12",
        "Qwen2.5_32B__DAPO-20260102-030405-ab12",
        "7b-20260102-030405-ab12",
        f"{'very-' * 20}long-20260102-030405-ab12",
        "_-20260102-030405-ab12",
    ]
    for run_id in ids:
        name, label = job_name(run_id), label_value(run_id)
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?", name), name
        assert re.fullmatch(r"[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?", label), label
        assert name.endswith("-20260102-030405-ab12")
        assert label.endswith("20260102-030405-ab12")
    assert len({job_name(run_id) for run_id in ids}) == len(ids)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ((), "launch.kubernetes.image, machines.accelerators, machines.cpus, machines.memory_gib"),
        (SMALL[:-1], "no volumes"),
        ((*SMALL[:-1], "launch.kubernetes.volumes=[{claim: a, path: /else}]"), "/else"),
    ],
)
def test_a_recipe_that_lacks_what_pods_need_is_refused(
    folder: Path, overrides: tuple[str, ...], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        launched(folder, *overrides)


def test_files_that_are_too_large_for_a_config_map_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("x" * 2_000_000)
    with pytest.raises(UserError, match=r"data\.jsonl \(1\.9 MiB\)"):
        config_files({}, tmp_path, ["data.jsonl"])


def test_every_text_survives_its_block_of_yaml(tmp_path: Path) -> None:
    texts = [
        "",
        "a\n",
        "a",
        "a\n\n",
        " a\n",
        "\ta\n",
        "a\n\n  b\n",
        "x: 1\n# é\n",
        "a\r\nb\n",
        "---\n",
        "\n",
        "\na\n",
    ]
    texts += ["a \n", "  \na\n", "a\x85b\n", "a\u2028b\n", "\ufeffa\n", "a\tb\n", "|\n", "a\n \n"]
    for text in texts:
        found = parsed(f"top:\n  key: {as_block(text)}\n  other: 1\n")
        assert found == {"top": {"key": text, "other": 1}}, repr(text)
    (tmp_path / "table.bin").write_bytes(b"\xff\x00")
    files = config_files({}, tmp_path, ["table.bin"])
    assert files.binaries == [("1-table.bin", "/wA=")]


def test_files_outside_the_working_directory_must_lie_on_a_volume(folder: Path) -> None:
    job = launched(folder, *SMALL).job
    assert unseen(job.config, {"/runs/model", "/home/me/model"}) == ["/home/me/model"]


def test_a_folder_that_is_called_as_a_word_of_the_recipe_stays_here_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "addition").mkdir()
    (tmp_path / "addition" / "large.bin").write_bytes(b"0" * 2_000_000)
    assert launched(tmp_path, *SMALL).unseen == ["addition"]


def test_the_kustomize_base_is_what_the_template_gives(tmp_path: Path, folder: Path) -> None:
    job = launched(folder, *SMALL, run_id="quickstart")
    config_map, ray_job = manifests(job)
    expected = job.rendered.files["rayjob.yaml"]
    if os.environ.get("UPDATE_GOLDEN"):
        (BASE / "rayjob.yaml").write_text(expected)
    assert (BASE / "rayjob.yaml").read_text() == expected
    own = load_config(BASE / "recipe.yaml")
    assert (own.cluster.mode, own.cluster.address) == ("ray", "auto")
    assert (own.stages, own.model) == (job.job.config.stages, job.job.config.model)
    kustomization = parsed((BASE / "kustomization.yaml").read_text())
    assert kustomization["resources"] == ["rayjob.yaml"]
    assert set(kustomization["configMapGenerator"][0]["files"]) == set(config_map["data"])
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: the base is compared, and not built")
    overlay = tmp_path / "overlay"
    shutil.copytree(BASE, overlay / "base")
    (overlay / "mine.yaml").write_text("name: mine\n")
    (overlay / "kustomization.yaml").write_text(
        "resources: [base]\nnamespace: research\n"
        "images: [{name: registry.example/rlpost, newTag: 0.2.0}]\n"
        "configMapGenerator: [{name: quickstart, behavior: merge, files: [recipe.yaml=mine.yaml]}]\n"
        "generatorOptions: {disableNameSuffixHash: true}\n"
    )
    for place, recipe, namespace, tag in (
        (BASE, (BASE / "recipe.yaml").read_text(), "default", "0.1.0"),
        (overlay, "name: mine\n", "research", "0.2.0"),
    ):
        built = subprocess.run(
            ["kubectl", "kustomize", str(place)], capture_output=True, text=True, check=True, timeout=60
        )
        found = {
            manifest["kind"]: manifest for manifest in yaml.load_all(built.stdout, Loader=yaml.CSafeLoader)
        }
        assert [complaints(manifest) for manifest in found.values()] == [[], []]
        assert found["ConfigMap"]["data"]["recipe.yaml"] == recipe
        assert found["ConfigMap"]["metadata"]["name"] == ray_job["metadata"]["name"]
        assert {manifest["metadata"]["namespace"] for manifest in found.values()} == {namespace}
        assert pods(found["RayJob"])[0]["containers"][0]["image"] == f"registry.example/rlpost:{tag}"


def test_a_dry_run_prints_what_would_be_applied_and_needs_no_kubectl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    command = ["launch", "kubernetes", str(RECIPE), *SMALL, "--output", "/runs/first", "--dry-run"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    config_map, ray_job, apply = (*result.stdout.split("### ")[1:], result.stdout.splitlines()[-1])
    assert config_map.startswith("configmap.yaml\n")
    assert "kind: RayJob" in ray_job
    assert apply.startswith("$ kubectl apply -f runs/quickstart-")
    assert list(tmp_path.iterdir()) == []


def driver(tmp_path: Path, command: str) -> dict[str, str]:
    """The environment of a head whose `rlpost` is a line of shell."""
    files = tmp_path / "etc"
    files.mkdir(exist_ok=True)
    (files / "recipe.yaml").write_text("name: x\n")
    (tmp_path / "tmp").mkdir(exist_ok=True)
    script = tmp_path / "rlpost.sh"
    script.write_text(command)
    return {
        **os.environ,
        "RLPOST_RUN_DIR": str(tmp_path / "run"),
        "RLPOST_LAUNCHER": "kubernetes:x",
        "RLPOST_FILES": str(files),
        "RLPOST_COMMAND": f"bash {script}",
        "RLPOST_STOP_S": "60",
        "RLPOST_HEAD_START_S": "0",
        "TMPDIR": str(tmp_path / "tmp"),
    }


def start(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(BASE / "start.sh")],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )


def test_only_a_driver_that_was_killed_is_tried_again(tmp_path: Path) -> None:
    for status, again in ((0, True), (137, True), (2, False), (1, False), (143, False)):
        folder = tmp_path / str(status)
        folder.mkdir()
        environment = driver(folder, f'echo "$@"; exit {status}')
        first, second = start(environment), start(environment)
        run = folder / "run"
        assert first.returncode == status
        assert first.stdout.splitlines()[0] == f"train {run}/launch/recipe.yaml --output {run} --resume"
        assert second.returncode == (status if again else 1)
        assert ("not tried again" in second.stderr) == (not again)


def test_a_head_that_leaves_asks_its_driver_to_save_and_others_wait_for_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    environment = driver(
        tmp_path,
        f"i=0; until [ -e {run}/stop ] || [ $i = 600 ]; do sleep 0.1; i=$((i+1)); done; sleep 0.3\n"
        f"touch {run}/saved; exit 143\n",
    )
    drain = ["bash", str(BASE / "drain.sh")]
    assert subprocess.run([*drain, "head"], env=environment, timeout=60, check=False).returncode == 0
    assert not run.exists(), "a head without a driver has nobody to ask"
    driving = subprocess.Popen(["bash", str(BASE / "start.sh")], env=environment, stdout=subprocess.PIPE)
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "tmp" / "rlpost.running").exists() and time.monotonic() < until:
            time.sleep(0.02)
        leaving = subprocess.Popen([*drain, "head"], env=environment)
        while not (run / "launch" / "leaving").exists() and time.monotonic() < until:
            time.sleep(0.02)
        assert subprocess.run([*drain, "worker"], env=environment, timeout=60, check=False).returncode == 0
        assert (run / "saved").exists(), "a worker stays until the checkpoint is there"
        assert driving.wait(60) == 143
        assert leaving.wait(60) == 0
    finally:
        driving.kill()
    assert not (run / "stop").exists(), "the next attempt is not told to stop"
    environment["RLPOST_COMMAND"] = "true"
    assert start(environment).returncode == 0, "and is made"
