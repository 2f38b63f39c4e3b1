"""Responses that their prompts begin: what the model reads, what reward functions read, what is recorded."""

import pytest

from rlpost.config.schema import DataConfig, RewardConfig, ScoringConfig
from rlpost.data import load_prompts
from rlpost.data.trajectory import Trajectory, Turn
from rlpost.errors import DataError
from rlpost.scoring import Scorer
from rlpost.training.recording import from_record, to_record

ROWS = (
    '{"prompt": "12+34=", "answer": "64", "begun": "6"}\n'
    '{"prompt": "12+34=", "answer": "64", "begun": null}\n'
    '{"prompt": "20+1=", "answer": "12"}\n'
)


@pytest.fixture
def load(tmp_path, tiny_tokenizer):
    def load(text=ROWS, **options):
        (tmp_path / "rows.jsonl").write_text(text)
        data = DataConfig(path=str(tmp_path / "rows.jsonl"), prefill_column="begun", **options)
        return load_prompts(data, tiny_tokenizer)

    return load


@pytest.mark.parametrize("template", ["none", "chat"])
def test_a_prefill_stands_behind_the_prompt_and_needs_no_column_in_every_row(load, tiny_tokenizer, template):
    begun, plain, other = load(template=template)
    ids = tiny_tokenizer("6", add_special_tokens=False)["input_ids"]
    assert begun.token_ids == (*plain.token_ids, *ids) and begun.text == plain.text + "6"
    assert (begun.prefill, plain.prefill, other.prefill) == ("6", "", "")


def test_a_prefill_that_is_no_text_is_a_broken_row_and_a_column_that_no_row_has_an_error(load):
    with pytest.raises(DataError, match="prefill 'begun': expected text, found a number"):
        load(ROWS + '{"prompt": "1+1=", "answer": "2", "begun": 7}\n')
    with pytest.raises(DataError, match="no column 'begun'"):
        load('{"prompt": "1+1=", "answer": "2"}\n')


def test_reward_functions_read_the_whole_response_and_a_recorded_one_keeps_its_beginning(load):
    prompt = load(template="none")[0]
    turn = Turn((9,), "4", True, (-0.5,), (0,))
    trajectory = Trajectory("t", prompt, (turn,), "eos", 0)
    with Scorer([RewardConfig(function="exact_match")], ScoringConfig(workers=1, deadline_s=60)) as scorer:
        (scored,) = scorer.score([trajectory])
    assert scored.reward.score == 1.0 and scored.text == "4"
    assert from_record(to_record(scored)) == scored
