"""load_prompts on files: what comes out, how lengths are handled, what the fingerprint covers."""

import hashlib
import json
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from rlpost.config.schema import DataConfig
from rlpost.data import load_prompts
from rlpost.errors import ConfigError, DataError

SHARED = Path(__file__).parents[2] / "../shared/data"


def row(number, **more):
    return {"prompt": f"question {number}", "answer": f"{number}", **more}


def counts(**more):
    return {**dict.fromkeys(("rows", "broken", "kept", "dropped", "truncated", "duplicates"), 0), **more}


def test_a_jsonl_row_becomes_a_prompt_with_all_its_columns(write_rows, tokenizer):
    path = write_rows({"question": "1+1=", "gold": "2", "level": 3})
    config = DataConfig(path=path, prompt_column="question", answer_column="gold", template="none")
    prompt_set = load_prompts(config, tokenizer)
    (prompt,) = prompt_set.prompts
    assert prompt.text == "1+1="
    assert prompt.token_ids == tuple(tokenizer.convert_tokens_to_ids(list("1+1=")))
    assert dict(prompt.columns) == {"question": "1+1=", "gold": "2", "level": 3, "answer": "2"}
    assert prompt.demonstration is None
    assert prompt_set.counts == counts(rows=1, kept=1)


def test_without_an_answer_column_the_columns_are_the_row_and_nothing_else(write_rows, tokenizer):
    path = write_rows({"prompt": "hi", "source": "web"})
    (prompt,) = load_prompts(DataConfig(path=path, answer_column=None), tokenizer).prompts
    assert dict(prompt.columns) == {"prompt": "hi", "source": "web"}


def test_a_byte_order_mark_blank_lines_and_a_missing_last_newline_are_no_rows(tmp_path, tokenizer):
    path = tmp_path / "data.jsonl"
    lines = [b"\xef\xbb\xbf" + json.dumps(row(1)).encode(), b"", b"  ", json.dumps(row(2)).encode()]
    path.write_bytes(b"\r\n".join(lines))
    prompts = load_prompts(DataConfig(path=str(path), template="none"), tokenizer)
    assert [p.text for p in prompts] == ["question 1", "question 2"]
    assert prompts.counts["rows"] == 2


def test_a_line_separator_inside_a_text_does_not_end_the_row(tmp_path, tokenizer):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row(1, note="a\u2028b\x85c"), ensure_ascii=False) + "\n", encoding="utf-8")
    (prompt,) = load_prompts(DataConfig(path=str(path)), tokenizer).prompts
    assert prompt.columns["note"] == "a\u2028b\x85c"


def test_parquet_and_jsonl_with_the_same_rows_give_the_same_prompts(write_rows, tmp_path, tokenizer):
    rows = [row(n, tags=["a", "b"], meta={"k": n}) for n in range(3000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data.parquet")
    from_parquet = load_prompts(DataConfig(path=str(tmp_path / "data.parquet")), tokenizer)
    from_jsonl = load_prompts(DataConfig(path=write_rows(*rows)), tokenizer)
    assert from_parquet.prompts == from_jsonl.prompts
    assert from_parquet.fingerprint == from_jsonl.fingerprint


def test_a_dataset_is_read_through_the_datasets_library(write_rows, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_rows(row(1), row(2), name="train.jsonl")
    path = write_rows(row(3), name="test.jsonl")
    hub = DataConfig(dataset=str(tmp_path), split="test")
    local = DataConfig(path=path)
    assert load_prompts(hub, tokenizer) == load_prompts(local, tokenizer)


def test_a_dataset_that_cannot_be_loaded_is_one_clear_error(tokenizer, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as caught:
        load_prompts(DataConfig(dataset="nobody/nothing", subset="main"), tokenizer)
    text = str(caught.value)
    assert "the dataset cannot be loaded" in text and "dataset nobody/nothing (main) [train]" in text
    assert "or use a local file" in text


def test_a_split_that_a_dataset_lacks_is_one_clear_error(write_rows, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_rows(row(1), name="train.jsonl")
    with pytest.raises(DataError, match="the dataset cannot be loaded") as caught:
        load_prompts(DataConfig(dataset=str(tmp_path), split="validation"), tokenizer)
    assert "validation" in caught.value.details["found"]


def test_home_and_relative_paths_are_expanded(write_rows, tmp_path, tokenizer, monkeypatch):
    write_rows(row(1))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_prompts(DataConfig(path="~/data.jsonl"), tokenizer)) == 1
    monkeypatch.chdir(tmp_path)
    assert len(load_prompts(DataConfig(path="data.jsonl"), tokenizer)) == 1


def test_limit_takes_the_first_rows(write_rows, tokenizer):
    path = write_rows(*(row(n) for n in range(5)), "not looked at")
    prompts = load_prompts(DataConfig(path=path, limit=3, template="none"), tokenizer)
    assert [p.text for p in prompts] == ["question 0", "question 1", "question 2"]
    assert prompts.counts["rows"] == 3


def test_ids_are_hashes_of_prompt_and_answer_and_ignore_everything_else(write_rows, tokenizer):
    path = write_rows({"prompt": "a", "answer": 1, "note": "x"})
    other = write_rows({"note": "y", "answer": 1, "prompt": "a"}, name="other.jsonl")
    expected = hashlib.sha256(b'["a",1]').hexdigest()[:16]
    configs = [DataConfig(path=path), DataConfig(path=other, instruction="Think.", template="none")]
    assert [load_prompts(c, tokenizer)[0].id for c in configs] == [expected, expected]


def test_identical_rows_are_kept_counted_and_told_apart(write_rows, tokenizer):
    prompts = load_prompts(DataConfig(path=write_rows(row(1), row(2), row(1), row(1))), tokenizer)
    first = prompts[0].id
    assert [p.id for p in prompts] == [first, prompts[1].id, f"{first}-2", f"{first}-3"]
    assert prompts.counts["duplicates"] == 2 and prompts.counts["kept"] == 4


def test_an_id_column_gives_the_ids(write_rows, tokenizer):
    path = write_rows(row(1, uid=7), row(1, uid="algebra/8"))
    prompts = load_prompts(DataConfig(path=path, id_column="uid"), tokenizer)
    assert [p.id for p in prompts] == ["7", "algebra/8"]
    assert prompts.counts["duplicates"] == 0


def test_the_fingerprint_changes_with_anything_a_run_depends_on(write_rows, tokenizer):
    rows = [row(1, uid="a", demo="x", note="n"), row(2, uid="b", demo="y", note="m")]
    base = {"id_column": "uid", "demonstration_column": "demo"}

    def fingerprint(rows=rows, **changes):
        config = DataConfig(path=write_rows(*rows), **{**base, **changes})
        return load_prompts(config, tokenizer).fingerprint

    same = fingerprint()
    assert fingerprint() == same and len(same) == 64
    changed = [
        fingerprint(rows[::-1]),
        fingerprint(rows[:1]),
        fingerprint([{**rows[0], "uid": "c"}, rows[1]]),
        fingerprint([{**rows[0], "note": "N"}, rows[1]]),
        fingerprint([{**rows[0], "demo": "z"}, rows[1]]),
        fingerprint(demonstration_column=None),
        fingerprint(template="none"),
        fingerprint(max_prompt_tokens=5, overlong_prompts="truncate"),
    ]
    assert len({same, *changed}) == 9


LIMIT = 10
AROUND = [{"prompt": "a" * n, "answer": "x"} for n in (LIMIT - 1, LIMIT, LIMIT + 1)]


def around(write_rows, policy, rows=AROUND):
    return DataConfig(
        path=write_rows(*rows), template="none", max_prompt_tokens=LIMIT, overlong_prompts=policy
    )


def test_overlong_prompts_are_an_error_by_default_that_lists_rows_and_lengths(write_rows, tokenizer):
    assert DataConfig().overlong_prompts == "error"
    with pytest.raises(DataError) as caught:
        load_prompts(around(write_rows, "error"), tokenizer)
    error = caught.value
    assert error.what == "1 of 3 prompts have more than 10 tokens"
    assert error.details["found"] == "line 3: 11 tokens"
    assert "data.max_prompt_tokens=11" in error.details["remedy"]
    assert len(load_prompts(around(write_rows, "error", AROUND[:2]), tokenizer)) == 2


def test_overlong_prompts_are_dropped_and_counted(write_rows, tokenizer):
    prompts = load_prompts(around(write_rows, "drop"), tokenizer)
    assert [len(p.token_ids) for p in prompts] == [9, 10]
    assert prompts.counts == counts(rows=3, kept=2, dropped=1)


def test_overlong_prompts_keep_their_last_tokens_and_are_counted(write_rows, tokenizer):
    rows = [*AROUND[:2], {"prompt": "0123456789A", "answer": "x"}]
    prompts = load_prompts(around(write_rows, "truncate", rows), tokenizer)
    assert [len(p.token_ids) for p in prompts] == [9, 10, 10]
    assert prompts[2].text == "123456789A" == tokenizer.decode(prompts[2].token_ids)
    assert prompts[2].columns["prompt"] == "0123456789A"
    assert prompts.counts == counts(rows=3, kept=3, truncated=1)


def test_the_template_counts_towards_the_length(write_rows, tokenizer):
    config = DataConfig(path=write_rows(AROUND[0]), max_prompt_tokens=LIMIT)
    with pytest.raises(DataError, match="line 1: 11 tokens"):
        load_prompts(config, tokenizer)


def test_dropping_every_prompt_is_an_error(write_rows, tokenizer):
    with pytest.raises(DataError, match="every prompt was dropped") as caught:
        load_prompts(around(write_rows, "drop", AROUND[2:]), tokenizer)
    assert "has 11 tokens" in caught.value.details["found"]


@pytest.mark.parametrize(
    ("changes", "found"),
    [({}, "none"), ({"path": "x.jsonl", "task": "addition"}, "data.path and data.task")],
)
def test_anything_but_one_source_is_refused(changes, found, tokenizer):
    with pytest.raises(ConfigError, match="exactly one source") as caught:
        load_prompts(DataConfig(**changes), tokenizer)
    assert caught.value.details["found"] == found


@pytest.mark.parametrize(
    ("file", "rows", "columns"),
    [
        ("gsm8k/train.jsonl", 7473, {"prompt_column": "question"}),
        ("math500/test.jsonl", 500, {"prompt_column": "problem", "id_column": "unique_id"}),
        ("aime24/test.jsonl", 30, {"prompt_column": "problem", "id_column": "id"}),
        ("amc23/test.jsonl", 40, {"prompt_column": "problem", "id_column": "id"}),
    ],
)
def test_real_benchmark_files_load_whole(file, rows, columns, tokenizer):
    if not (SHARED / file).is_file():
        pytest.skip(f"needs the real data file {file} in ../shared/data, which is not there")
    config = DataConfig(path=str(SHARED / file), max_prompt_tokens=4096, **columns)
    prompts = load_prompts(config, tokenizer)
    assert prompts.counts == counts(rows=rows, kept=rows)
    assert len({p.id for p in prompts}) == rows
    with (SHARED / file).open(encoding="utf-8") as lines:
        raw = [json.loads(line) for line in lines]
    for prompt, record in zip(prompts, raw, strict=True):
        assert prompt.text == f"<user>{record[columns['prompt_column']]}<assistant>"
        assert prompt.columns == record
