"""Guided prompts: what the model is shown in each mode, and templates that do not show it."""

import pytest

from rlpost.config.schema import DataConfig, GuidanceConfig
from rlpost.data import load_prompts
from rlpost.data.templates import PromptEncoder
from rlpost.errors import ConfigError
from rlpost.guidance.guided import Guide, problems_of
from rlpost.models.tokenizer import build_tiny_tokenizer

ROWS = (
    '{"prompt": "2+3?", "answer": "5", "solution": " Two, three more. "}\n'
    '{"prompt": "1+1?", "answer": "2", "solution": [{"role": "assistant", "content": "One."}]}\n'
    '{"prompt": "1+2?", "answer": "3", "solution": ""}\n'
    '{"prompt": "1+3?", "answer": "4", "solution": null}\n'
    '{"prompt": "1+4?", "answer": "5", "solution": [{"role": "user", "content": "?"}]}\n'
    '{"prompt": "1+5?", "answer": "6"}\n'
)


@pytest.fixture
def made(tmp_path, tiny_tokenizer):
    """A guide and the problems, for options of `data` and `guidance`."""

    def made(tokenizer=tiny_tokenizer, data=None, **settings):
        (tmp_path / "rows.jsonl").write_text(ROWS)
        source = DataConfig(path=str(tmp_path / "rows.jsonl"), **data or {})
        prompts = load_prompts(source, tokenizer)
        source = source.model_copy(update={"demonstration_column": "solution"})
        problems, without = problems_of(prompts, source, PromptEncoder.of(source, tokenizer))
        settings = GuidanceConfig(instruction="Go on.", heading="Begun:", **settings)
        return Guide.of(settings, source, tokenizer), problems, without

    return made


def test_problems_without_a_usable_solution_are_told_apart(made):
    _, problems, without = made()
    assert [problem.solution for problem in problems] == ["Two, three more.", "One."]
    assert sorted(without.values()) == ["empty", "missing", "missing", "no text"]


@pytest.mark.parametrize(
    ("mode", "data", "text", "prefill"),
    [
        ("system", {}, "<user>Go on.<user>2+3?\n\nBegun:\nTwo<assistant>", ""),
        ("system", {"system_prompt": "S"}, "<user>S\n\nGo on.<user>2+3?\n\nBegun:\nTwo<assistant>", ""),
        ("system", {"instruction": "I"}, "<user>Go on.<user>2+3?\n\nI\n\nBegun:\nTwo<assistant>", ""),
        ("user", {"system_prompt": "S"}, "<user>S<user>Go on.\n\n2+3?\n\nBegun:\nTwo<assistant>", ""),
        ("assistant", {"system_prompt": "S"}, "<user>S<user>2+3?<assistant>Two", "Two"),
        ("system", {"template": "none", "instruction": "I"}, "Go on.\n\n2+3?\n\nI\n\nBegun:\nTwo", ""),
        ("assistant", {"template": "none"}, "2+3?Two", "Two"),
    ],
)
def test_what_the_model_reads_in_each_mode(made, mode, data, text, prefill):
    guide, (problem, *_), _ = made(data=data, mode=mode)
    guide.check([problem])
    prompt = guide.prompt(problem, "Two", "p+guided")
    assert (prompt.text, prompt.prefill) == (text, prefill)
    assert prompt.columns == problem.prompt.columns


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no system here') }}", "refuses a guided prompt"),
        ("", "does not show the model all of a guided prompt"),
    ],
)
def test_a_template_without_system_messages_is_refused_with_the_way_out(made, template, message):
    tokenizer = build_tiny_tokenizer()
    roles = "{% if m['role'] == 'system' %}" + template + "{% else %}{{ m['content'] }}{% endif %}"
    tokenizer.chat_template = "{% for m in messages %}" + roles + "{% endfor %}"
    guide, problems, _ = made(tokenizer)
    with pytest.raises(ConfigError, match=message) as caught:
        guide.check(problems)
    assert "guidance.mode=user" in str(caught.value)
    guide, problems, _ = made(tokenizer, mode="user")
    guide.check(problems)
