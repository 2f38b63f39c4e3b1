"""What of the working directory goes along with a job."""

import os
import zipfile

import pytest

from rlpost.errors import UserError
from rlpost.launch.named_files import named_files
from rlpost.launch.working_directory import Pattern, as_size, is_left_out, pack


def made(folder, *names, text="x"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_runs_environments_caches_and_secrets_stay_here_and_all_else_goes_along(tmp_path):
    made(
        tmp_path,
        *("recipe.yaml", "rewards/mine.py", "data/a.jsonl", ".hidden", "out/notes.txt"),
        *(".git/config", ".venv-gpu/bin/python", "env/pyvenv.cfg", "env/lib/x.py", "pkg/__pycache__/m.pyc"),
        *("out/first/run.json", "out/first/checkpoints/big", "elsewhere/runs/deep/run.json", ".env"),
        *("conda/conda-meta/history", "results/a", "old.pyc"),
    )
    packing = pack(tmp_path, [], folders=[tmp_path / "results"])
    assert list(packing.sizes) == [
        ".hidden",
        "data/a.jsonl",
        "out/notes.txt",
        "recipe.yaml",
        "rewards/mine.py",
    ]
    assert packing.total == 5
    assert packing.left_out == [
        *(".env", ".git/", ".venv-gpu/", "conda/", "elsewhere/runs/deep/", "env/", "old.pyc", "out/first/"),
        *("pkg/__pycache__/", "results/"),
    ]


@pytest.mark.parametrize(
    ("patterns", "left_out", "taken"),
    [
        (["*.bin"], ["a.bin", "x/y/a.bin"], ["a.bins", "bin"]),
        (["data/"], ["data/"], ["data", "x/data.txt"]),
        (["x/data/"], ["x/data/"], ["data/", "y/x/data/"]),
        (["/data"], ["data/", "data"], ["x/data"]),
        (["x/**/big"], ["x/big", "x/y/z/big"], ["big"]),
        (["logs/**"], ["logs/a", "logs/a/b"], ["logs/"]),
        (["*.bin", "!keep.bin"], ["a.bin"], ["keep.bin", "x/keep.bin"]),
        (["step-[0-9]?"], ["step-12"], ["step-1", "step-a2"]),
        (["step-[!0-9]"], ["step-a"], ["step-1"]),
        (["a.b"], ["a.b"], ["axb"]),
    ],
)
def test_patterns_are_those_of_gitignore(patterns, left_out, taken):
    parsed = [Pattern(text) for text in patterns]
    for path in [*left_out, *taken]:
        verdict = is_left_out(path.rstrip("/"), path.endswith("/"), parsed)
        assert verdict == (path in left_out), path


def test_what_the_recipe_names_goes_along_from_wherever_it_is_unless_the_user_says_no(tmp_path):
    made(tmp_path, "runs/p/pivots.jsonl", "runs/p/run.json", "model/weights", "model/run.json", "a.py")
    named = named_files(
        {
            "name": "a.py",
            "output": "runs",
            "data": {"path": "runs/p/pivots.jsonl", "count": 3, "missing": "not/here", "long": "x" * 5000},
            "model": {"path": str(tmp_path / "model")},
            "rewards": [{"name": "a.py:score"}, "exact_match"],
            "environment": {"name": "mcp:python a.py --fast"},
            "algorithm": {"shaping": [{f"{tmp_path}/a.py:Mine": {"alpha": 1.0}}]},
            "root": "/",
            "up": f"../{tmp_path.name}/a.py",
        },
        tmp_path,
    )
    assert named.packed == {"runs/p/pivots.jsonl", "model", "a.py"}
    assert named.outside == {"/"}
    assert named.tree["model"] == {"path": "model"}
    assert named.tree["algorithm"] == {"shaping": [{"a.py:Mine": {"alpha": 1.0}}]}
    assert named.tree["up"] == "a.py"
    assert named.tree["name"] == "a.py"
    packing = pack(tmp_path, [], named.packed, [tmp_path / "runs"])
    assert list(packing.sizes) == ["a.py", "model/run.json", "model/weights", "runs/p/pivots.jsonl"]
    with pytest.raises(UserError, match=r"(?s)runs/p/pivots\.jsonl.*'!runs/p/pivots\.jsonl'"):
        pack(tmp_path, ["*.jsonl"], named.packed)
    assert "runs/p/pivots.jsonl" in pack(tmp_path, ["*.jsonl", "!pivots.jsonl"], named.packed).sizes


def test_links_are_followed_once_and_programs_stay_programs(tmp_path):
    made(tmp_path, "shared/script.sh", "work/a")
    (tmp_path / "shared" / "script.sh").chmod(0o755)
    (tmp_path / "work" / "linked").symlink_to(tmp_path / "shared")
    (tmp_path / "work" / "round").symlink_to(tmp_path / "work")
    (tmp_path / "work" / "nothing").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "work" / "pipe")
    packing = pack(tmp_path / "work", [])
    assert list(packing.sizes) == ["a", "linked/script.sh"]
    assert packing.left_out == ["nothing", "pipe", "round/"]
    packing.write(tmp_path / "made.zip", {"recipe.yaml": "name: x\n"})
    with zipfile.ZipFile(tmp_path / "made.zip") as archive:
        assert archive.namelist() == ["a", "linked/script.sh", "recipe.yaml"]
        assert archive.read("recipe.yaml") == b"name: x\n"
        assert archive.getinfo("linked/script.sh").external_attr >> 16 & 0o777 == 0o755
    (tmp_path / "work" / "a").unlink()
    with pytest.raises(UserError, match="work/a"):
        packing.write(tmp_path / "again.zip", {})


def test_sizes_are_written_as_people_read_them():
    assert [as_size(n) for n in (0, 1023, 1536, 100 * 1024**2)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "100.0 MiB",
    ]
