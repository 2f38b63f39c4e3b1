"""Python files of a user's own."""

import os

from rlpost.user_code import import_file


def test_a_file_that_is_edited_within_a_second_to_the_same_size_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    path = tmp_path / "reward.py"
    found = []
    for weight in (1, 2):
        path.write_text(f"WEIGHT = {weight}\n")
        os.utime(path, (1_700_000_000, 1_700_000_000))
        found.append(import_file(path, what="the file", prefix="test_").WEIGHT)
    assert found == [1, 2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["reward.py"]
