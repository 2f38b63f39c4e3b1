import json
from types import SimpleNamespace

import pytest

from rlpost.errors import CheckpointError
from rlpost.training.checkpoint import find_checkpoint, save_checkpoint

IDENTITY = {"model.init": "tiny", "seed": 0}


def save(folder, step, keep=10, identity=IDENTITY, content="weights"):
    def write(path):
        (path / "learner").mkdir()
        (path / "learner" / "model.bin").write_text(f"{content} {step}")
        (path / "state.json").write_text("{}")

    return save_checkpoint(folder, step, identity, write, keep)


def test_the_newest_checkpoint_is_found_and_latest_points_at_it(tmp_path):
    save(tmp_path, 5)
    save(tmp_path, 10)
    found = find_checkpoint(tmp_path, IDENTITY, pytest.fail)
    assert (found.step, found.path.name) == (10, "step-000010")
    assert (tmp_path / "latest").read_text() == "step-000010\n"


def test_only_the_newest_ones_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=2)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-000003", "step-000004"]


def test_no_checkpoint_at_all_means_none(tmp_path):
    assert find_checkpoint(tmp_path / "absent", IDENTITY, pytest.fail) is None


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: (p / "learner" / "model.bin").write_text("weights 1"), "bytes, needed"),
        (lambda p: (p / "learner" / "model.bin").write_text("weighst 10"), "damaged"),
        (lambda p: (p / "learner" / "model.bin").unlink(), "missing"),
        (lambda p: (p / "manifest.json").unlink(), "manifest cannot be read"),
        (lambda p: (p / "manifest.json").write_text('{"format": 1, "st'), "manifest cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_the_reason_and_the_previous_one_is_taken(
    tmp_path, damage, reason
):
    save(tmp_path, 5)
    damage(save(tmp_path, 10).path)
    said = []
    assert find_checkpoint(tmp_path, IDENTITY, said.append).step == 5
    assert len(said) == 1
    assert "step-000010" in said[0]
    assert reason in said[0]


def test_a_foreign_checkpoint_is_refused_naming_the_field_and_both_values(tmp_path):
    save(tmp_path, 5)
    with pytest.raises(CheckpointError) as error:
        find_checkpoint(tmp_path, {"model.init": "other", "seed": 0}, lambda text: None)
    assert "model.init is 'tiny' in the checkpoint and 'other' now" in str(error.value)
    assert error.value.exit_status == 1


def test_a_write_that_fails_leaves_no_checkpoint_and_the_old_one_intact(tmp_path):
    save(tmp_path, 5)

    def write(path):
        (path / "model.bin").write_text("half")
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        save_checkpoint(tmp_path, 10, IDENTITY, write, keep=1)
    assert find_checkpoint(tmp_path, IDENTITY, pytest.fail).step == 5
    save(tmp_path, 15)
    assert not list(tmp_path.glob(".partial-*"))


def test_a_full_disk_is_noticed_before_writing(tmp_path, monkeypatch):
    save(tmp_path, 5)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=3))
    with pytest.raises(CheckpointError, match="too full"):
        save(tmp_path, 10)
    assert find_checkpoint(tmp_path, IDENTITY, pytest.fail).step == 5


def test_the_manifest_lists_every_file_with_its_digest(tmp_path):
    path = save(tmp_path, 5).path
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(manifest["files"]) == {"learner/model.bin", "state.json"}
    assert len(manifest["files"]["learner/model.bin"]["sha256"]) == 64
    assert manifest["identity"] == IDENTITY
