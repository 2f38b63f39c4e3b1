import math
from dataclasses import replace

import pytest

from rlpost.config.schema import RewardConfig, ScoringConfig
from rlpost.data.trajectory import Prompt, RewardResult, Trajectory, Turn
from rlpost.errors import RewardError, ScoringError
from rlpost.scoring import ScoreItem, Scorer

SCORING = ScoringConfig(workers=1, deadline_s=10)


@pytest.fixture
def scorer_of(tmp_path):
    made = []

    def make(*texts, scoring=SCORING, **more):
        configs = []
        for number, text in enumerate(texts):
            if text.startswith("def "):
                path = tmp_path / f"reward_{number}.py"
                path.write_text(text)
                text = str(path)
            configs.append(RewardConfig(function=text, **{k: v[number] for k, v in more.items()}))
        made.append(Scorer(configs, scoring))
        return made[-1]

    yield make
    for scorer in made:
        scorer.close()


def prompt(answer, number=0, **columns):
    return Prompt(f"p{number}", "question", (1,), {"answer": answer, **columns})


HALF = "def reward(completion): return {'score': 0.5, 'style': 0.25}"
PICKY = """def reward(completion):
    if completion == "raise": raise ValueError("cannot")
    if completion == "none": return {"score": 0, "outcome": "unparseable", "note": "empty"}
    return 1.0"""


def test_several_rewards_are_summed_by_weight_and_reported_apart(scorer_of):
    scorer = scorer_of(HALF, "gsm8k", weight=[2.0, -3.0], name=["half", None])
    [result] = scorer.score_items([ScoreItem("q", "#### 4", {"answer": "4"})])
    assert result == RewardResult(
        2 * 0.5 - 3 * 1.0, "scored", {"half": 0.5, "half/style": 0.25, "gsm8k": 1.0}, "gsm8k: found 4"
    )


def test_one_failed_component_fails_the_sample_and_the_worst_outcome_wins(scorer_of):
    scorer = scorer_of(HALF, PICKY)
    results = scorer.score_items([ScoreItem("", text) for text in ("raise", "none", "fine")])
    assert [(r.score, r.outcome) for r in results] == [(None, "error"), (0.5, "unparseable"), (1.5, "scored")]
    assert results[0].parts == {"reward_0": 0.5, "reward_0/style": 0.25}
    assert results[0].note.startswith("reward_1: ValueError: cannot")
    assert results[1].note == "reward_1: empty"


def test_a_reward_that_does_not_apply_adds_nothing_and_one_at_least_must_apply(scorer_of):
    text = "def reward(completions, task, **kw): return [0.5 if t == 'math' else None for t in task]"
    both, alone = scorer_of(HALF, text), scorer_of(text)
    rows = [ScoreItem("", "x", {"task": task}) for task in ("math", "code")]
    assert [r.score for r in both.score_items(rows)] == [1.0, 0.5]
    assert [sorted(r.parts) for r in both.score_items(rows)][1] == ["reward_0", "reward_0/style"]
    [_, none] = alone.score_items(rows)
    assert (none.score, none.outcome) == (None, "error")
    assert none.note == "no reward function applies to this response"
    coding = [prompt("x", n, task="code") for n in range(3)]
    assert both.canary(coding) == []


def test_trajectories_keep_everything_but_get_their_reward(scorer_of):
    def turn(text):
        return Turn((1,), text, True, (math.nan,), (0,))

    trajectory = Trajectory("t", prompt("34"), (turn("#### 3"), turn("4")), "eos", 1)
    [scored] = scorer_of("gsm8k").score([trajectory])
    assert scored.reward.score == 1.0
    assert (scored.id, scored.turns, scored.prompt) == (trajectory.id, trajectory.turns, trajectory.prompt)
    assert trajectory.reward is None


def test_two_rewards_of_one_name_and_no_reward_are_errors(scorer_of):
    with pytest.raises(RewardError, match="two rewards are named 'gsm8k'"):
        scorer_of("gsm8k", "gsm8k")
    with pytest.raises(RewardError, match="no reward function"):
        Scorer([], SCORING)


def test_a_missing_column_is_named_with_those_that_there_are(scorer_of):
    scorer = scorer_of("def reward(completion, level, answer='x'): return 1.0")
    scorer.check_columns(["level"])
    with pytest.raises(RewardError, match=r"(?s)needs the column 'level'.*reward_0.py:1.*question, answer"):
        scorer.check_columns(["question", "answer"])


def test_an_option_takes_the_place_of_a_column(scorer_of):
    scorer = scorer_of("def reward(completion, level): return level", options=[{"level": 0.75}])
    scorer.check_columns([])
    assert scorer.score_items([ScoreItem("", "", {"level": 1})])[0].score == 0.75


def test_the_canary_passes_the_shipped_rewards(scorer_of):
    scorer = scorer_of("gsm8k", "math", "exact_match", "format_tags", name=["a", "b", "c", "d"])
    scorer.canary([prompt("4", 0), prompt("1,234", 1), prompt("-7", 2)])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def reward(completion, answer): return 0.0", r"gold answer 1.0 \(3 of 3 rows tried\)"),
        ("def reward(completion, answer): return 1.0", "gives garbage 1"),
        ("def reward(completion, answer):\n    return 1 / 0", r"fails on a gold.*(.*\n)*.*reward_0.py:2 in"),
        ("def reward(completion, answer): return 'yes'", "returned 'yes'"),
        ("def reward(completion, answer): return None", "returned None"),
        ("def reward(completion): return 1 / 0", "fails on a response without an answer"),
        (
            "def reward(completion): return 0.0\ndef selfcheck(): return [({'completion': 'ab'}, 1.0)]",
            "contradicts its own `selfcheck`(.*\n)*.*'ab' got 0 .*\n.*1.0",
        ),
        ("def reward(completion): return 0.0\ndef selfcheck(): return 1 / 0", "its `selfcheck` failed"),
        (
            "def reward(completion, answer): return 1.0\ndef gold_completion(answer): return 1 / 0",
            "its `gold_completion` failed(.*\n)*.*row 'p0'",
        ),
    ],
)
def test_the_canary_stops_a_reward_that_cannot_be_trusted(text, says, scorer_of):
    scorer = scorer_of(text)
    with pytest.raises(RewardError, match=says):
        scorer.canary([prompt(str(n), n) for n in range(3)])


def test_the_canary_names_the_row_its_gold_answer_and_what_it_got(scorer_of):
    scorer = scorer_of("gsm8k")
    says = r"(?s)\(1 of 2 rows tried\).*row 'p1' with answer 'many'.*no number"
    with pytest.raises(RewardError, match=says):
        scorer.canary([prompt("4", 0), prompt("many", 1)])


FAILS_ON_SOME = """def reward(completion, answer):
    if completion == "3" or (completion == "qwxz qwxz" and answer == "7"): raise ValueError("unreadable")
    return float(completion == answer) * (0.5 if answer == "wrong" else 1.0)

def gold_completion(answer):
    return str(int(answer)) if answer != "wrong" else answer
"""


def test_the_canary_lets_a_reward_fail_on_no_more_than_the_share_given_and_tells(scorer_of):
    scorer = scorer_of(FAILS_ON_SOME)
    prompts = [replace(prompt(str(n), n), place=f"data.jsonl, line {n + 1}") for n in range(10)]
    [remark] = scorer.canary(prompts, max_failure_share=0.1)
    assert "failed on 2 of the responses" in remark and "row 'p3' (data.jsonl, line 4)" in remark
    assert "unreadable" in remark
    with pytest.raises(RewardError, match=r"fails on a gold answer \(1 of 10 rows tried\)"):
        scorer.canary(prompts)
    odd = replace(prompts[5], columns={"answer": "five"})
    with pytest.raises(RewardError, match=r"(?s)`gold_completion` failed.*data.jsonl, line 6"):
        scorer.canary([*prompts[4:7], odd])
    with pytest.raises(RewardError, match=r"fails on a gold answer \(1 of 10 rows tried\)"):
        scorer.canary([*prompts, odd], max_failure_share=0.1)  # one unwritten, one unreadable: two of eleven
    [remark] = scorer.canary([*prompts, odd], max_failure_share=0.2)
    assert "failed on 3 of the responses" in remark and "invalid literal" in remark
    with pytest.raises(RewardError, match=r"does not give a gold answer 1.0"):
        scorer.canary([*prompts, prompt("wrong", 10)], max_failure_share=1.0)


def test_the_canary_uses_the_files_own_gold_response_and_accepts_any_scale_of_wrong(scorer_of):
    text = (
        "def reward(completion, answer): return 1.0 if completion == f'<{answer}>' else -1.0\n"
        "def gold_completion(answer): return f'<{answer}>'\n"
    )
    scorer_of(text).canary([prompt("4")])


def test_a_file_says_what_garbage_is_where_any_words_are_right(scorer_of):
    text = (
        "def reward(completion, answer): return float(bool(completion))\n"
        "def gold_completion(answer): return 'any words'\n"
    )
    with pytest.raises(RewardError, match="gives garbage 1"):
        scorer_of(text).canary([prompt("4")])
    scorer_of(text + "GARBAGE = ''\n").canary([prompt("4")])


def test_the_canary_tries_no_more_rows_than_asked_spread_over_the_data(scorer_of):
    text = "def reward(completion, answer): return {'a': 0.0}.get(answer, float(completion == answer))"
    many = [prompt("b" if n % 25 == 0 else "a", n) for n in range(100)]
    scorer_of(text).canary(many, sample=4)
    with pytest.raises(RewardError, match="of 5 rows tried"):
        scorer_of(text).canary(many, sample=5)


def test_too_many_failures_stop_the_run_with_counts_and_notes(scorer_of):
    scorer = scorer_of("gsm8k", scoring=ScoringConfig(workers=1, max_failure_share=0.5))
    bad = [RewardResult(None, "timeout", {}, "slow"), RewardResult(None, "error", {}, "broken")]
    good = [RewardResult(0.0), RewardResult(0.0, "unparseable")]
    scorer.check_failures(bad + good)
    scorer.check_failures([])
    says = r"(?s)2 of 3 samples.*1 timeout, 1 error.*slow\nbroken.*at most 50%"
    with pytest.raises(ScoringError, match=says):
        scorer.check_failures(bad + good[:1])


def test_a_function_that_hangs_is_tried_on_two_rows_and_its_own_cases_beside_gold_answers(tmp_path):
    (tmp_path / "hangs.py").write_text(
        "import time\ndef reward(completion, answer):\n    time.sleep(60)\n    return 1.0\n"
    )
    (tmp_path / "cases.py").write_text(
        "def reward(completion, answer):\n    return float(completion == answer)\n"
        "def selfcheck():\n    return [({'completion': '1', 'answer': '2'}, 1.0)]\n"
    )
    prompts = [Prompt(str(n), "p", (1,), {"answer": str(n)}) for n in range(40)]

    def tried(name):
        rewards = [RewardConfig(function=str(tmp_path / f"{name}.py"))]
        with Scorer(rewards, ScoringConfig(workers=2, deadline_s=0.3)) as scorer:
            return [(t.kind, t.tried, len(t.failures)) for t in scorer.try_answers(prompts)]

    assert tried("hangs") == [("gold", 2, 2), ("garbage", 2, 2)]
    assert [(kind, failures) for kind, _, failures in tried("cases")] == [
        ("gold", 0),
        ("selfcheck", 1),
        ("garbage", 0),
    ]
