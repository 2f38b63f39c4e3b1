"""`rlpost doctor`: what it finds, how it judges, and how the command ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rlpost import cli
from rlpost.doctor import Check, as_json, as_text, examine, fails
from rlpost.doctor.machine import output_checks
from rlpost.doctor.packages import PYTHON, package_checks
from rlpost.machine import memory_limit
from rlpost.versions import DEPENDENCIES


def install(folder, **versions: str) -> list[str]:
    """Metadata of distributions, and nothing else, in a folder."""
    for name, version in versions.items():
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return [str(folder)]


def by_name(checks) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_every_row_of_the_table_has_a_line(tmp_path):
    lines = by_name(package_checks([str(tmp_path)]))
    assert lines.keys() == {"python", *DEPENDENCIES}
    assert lines["vllm"].verdict == "missing"
    assert "needed for sampling from large models" in lines["vllm"].note


def test_a_missing_core_package_stops_and_a_missing_extra_does_not(tmp_path):
    lines = by_name(package_checks(install(tmp_path, torch="2.13.0")))
    assert not lines["torch"].stops
    assert lines["transformers"].stops
    assert not lines["deepspeed"].stops


def test_an_old_core_package_stops_and_a_newer_one_is_called_untested(tmp_path):
    lines = by_name(package_checks(install(tmp_path, torch="2.12.0", transformers="5.21.0")))
    assert (lines["torch"].verdict, lines["torch"].stops) == ("old", True)
    assert (lines["transformers"].verdict, lines["transformers"].stops) == ("new, untested", False)
    assert ">=5.16.1,<5.20" in lines["transformers"].note


@pytest.mark.parametrize(
    ("torch", "torchvision", "stops"),
    [("2.13.0+cpu", "0.28.0", True), ("2.13.0+cpu", "0.28.0+cpu", False), ("2.13.0", "0.28.0", False)],
)
def test_torchvision_for_cuda_beside_a_cpu_torch_stops(tmp_path, torch, torchvision, stops):
    check = by_name(package_checks(install(tmp_path, torch=torch, torchvision=torchvision)))["torchvision"]
    assert check.stops is stops
    assert ("pip uninstall torchvision" in check.note) is stops


def test_the_range_of_python_is_that_of_pyproject(project_root):
    project = tomllib.loads((project_root / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == PYTHON


def test_an_output_directory_that_does_not_exist_yet_is_judged_by_the_one_above(tmp_path):
    writable, _ = output_checks(tmp_path / "runs" / "today")
    assert writable.found == "writable"
    assert not (tmp_path / "runs").exists()


def test_an_output_directory_that_takes_no_files_stops():
    writable, _ = output_checks(Path("/proc/runs"))
    assert (writable.verdict, writable.stops) == ("not writable", True)
    assert "--output" in writable.note


def test_a_container_s_limit_counts_where_it_is_below_the_machine_s_memory(tmp_path):
    limit = tmp_path / "memory.max"
    limit.write_text("1048576\n")
    assert memory_limit(limit) == 1048576
    limit.write_text("max\n")
    assert memory_limit(limit) == memory_limit(tmp_path / "missing") > 1048576


def test_the_text_has_a_table_for_each_group_and_ends_with_a_sum():
    checks = [
        Check("packages", "torch", "2.13.0", "2.13.0", required=True),
        Check("packages", "ray", "-", "2.60.0", "missing", "needed for cluster.mode: ray"),
    ]
    assert as_text(checks) == (
        "packages  here    tested with\n"
        "torch     2.13.0  2.13.0       ok\n"
        "ray       -       2.60.0       missing: needed for cluster.mode: ray\n"
        "\n"
        "rlpost can work here; limited: ray"
    )
    broken = [Check("packages", "torch", "-", "2.13.0", "missing", "needed", required=True)]
    assert fails(broken)
    assert as_text(broken).endswith("rlpost cannot work here: torch")


def test_the_json_has_every_field_of_every_check(tmp_path):
    checks = examine(tmp_path, [str(tmp_path)])
    report = json.loads(as_json(checks))
    assert report["ok"] is False
    assert [row["name"] for row in report["checks"]] == [check.name for check in checks]
    assert {row["group"] for row in report["checks"]} == {"packages", "machine", "tools", "output"}


@pytest.mark.parametrize(("output", "status"), [("runs", 0), ("/proc/runs", 1)])
def test_the_command_ends_with_status_1_where_rlpost_cannot_work(
    project_root, monkeypatch, capfd, output, status
):
    monkeypatch.chdir(project_root)
    monkeypatch.setattr(sys, "argv", ["rlpost", "doctor", "--json", "--output", output])
    with pytest.raises(SystemExit) as end:
        cli.main()
    printed = capfd.readouterr().out
    assert (end.value.code or 0) == status, printed
    assert json.loads(printed)["ok"] is (status == 0)


def test_a_torch_that_is_installed_but_does_not_load_is_named_with_its_reason(project_root, tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{project_root}"}
    command = [sys.executable, "-m", "rlpost.cli", "doctor"]
    done = subprocess.run(
        command, cwd=project_root, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "torch does not load: libcudart.so.13" in done.stdout
    assert done.stdout.endswith("rlpost cannot work here: accelerators\n")
