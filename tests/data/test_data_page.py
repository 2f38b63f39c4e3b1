"""docs/data.md: its dialogues are read as it says."""

import re

import yaml

from rlpost.config import load_config
from rlpost.config.schema import DataConfig
from rlpost.data import load_prompts


def test_the_dialogues_of_the_page_are_learnt_as_it_says(project_root, tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)
    text = (project_root / "docs/data.md").read_text()
    (tmp_path / "dialogues.jsonl").write_text(re.search(r"```json title=.*\n([\s\S]*?)```", text)[1])
    config = DataConfig(**yaml.safe_load(re.search(r"```yaml\n([\s\S]*?)```", text)[1])["data"])
    first, second = load_prompts(config, tokenizer)
    assert first.text == "<user>What is a1's colour?<assistant>"
    assert [turn.text for turn in first.demonstration if turn.by_policy] == [
        '<tool_call>\n{"name": "search", "arguments": {"key": "a1"}}\n</tool_call>',
        "It is red.",
    ]
    assert [turn.text for turn in second.demonstration] == [
        "Hello. What is it about?",
        "<user>Cats.<assistant>",
        "I like them.",
    ]


def test_the_pairs_of_the_page_are_pairs(project_root, tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)
    text = (project_root / "docs/data.md").read_text()
    (tmp_path / "pairs.jsonl").write_text(re.search(r'```json title="pairs.*\n([\s\S]*?)```', text)[1])
    recipe = tmp_path / "pairs.yaml"
    recipe.write_text(re.search(r'```yaml title="pairs.*\n([\s\S]*?)```', text)[1])
    (stage,) = load_config(recipe).stages
    first, second = load_prompts(stage.data, tokenizer)
    assert [turn.text for turn in first.demonstration + first.rejected] == ["4", "5"]
    assert [turn.text for turn in second.rejected if turn.by_policy] == ["A what?", "No."]
