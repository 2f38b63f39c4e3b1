"""The order of prompts: whole epochs, no repetition in a batch, exact resume."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpost.data.sampler import PromptSampler
from rlpost.data.trajectory import Prompt
from rlpost.errors import CheckpointError, ConfigError


def prompts(count):
    return [Prompt(id=f"p{i}", text="", token_ids=(i,)) for i in range(count)]


def ids(batches):
    return [p.id for batch in batches for p in batch]


@st.composite
def shapes(draw):
    count = draw(st.integers(1, 12))
    return count, draw(st.integers(1, count)), draw(st.integers(-3, 10**12)), draw(st.booleans())


@given(shapes())
@settings(max_examples=200, deadline=None)
def test_every_prompt_comes_exactly_once_per_epoch_and_once_per_batch(shape):
    count, size, seed, shuffle = shape
    sampler = PromptSampler(prompts(count), size, seed, shuffle)
    batches = [sampler.next_batch() for _ in range(4 * count)]
    assert all(len({p.id for p in batch}) == size for batch in batches)
    drawn = ids(batches)
    for start in range(0, len(drawn) - count + 1, count):
        assert sorted(drawn[start : start + count]) == sorted(p.id for p in prompts(count))


@given(shapes(), st.integers(0, 25))
@settings(max_examples=200, deadline=None)
def test_saving_after_any_number_of_batches_and_resuming_gives_the_same_order(shape, taken):
    count, size, seed, shuffle = shape
    straight = PromptSampler(prompts(count), size, seed, shuffle)
    for _ in range(taken):
        straight.next_batch()
    state = json.loads(json.dumps(straight.state_dict()))
    expected = [straight.next_batch() for _ in range(20)]

    resumed = PromptSampler(prompts(count), size, seed, shuffle)
    resumed.next_batch()
    resumed.load_state_dict(state)
    assert [resumed.next_batch() for _ in range(20)] == expected
    assert resumed.state_dict() == straight.state_dict()


def test_without_shuffling_the_order_is_the_file_order_in_every_epoch():
    sampler = PromptSampler(prompts(5), 3, seed=7, shuffle=False)
    drawn = [[p.id for p in sampler.next_batch()] for _ in range(5)]
    assert drawn == [
        ["p0", "p1", "p2"],
        ["p3", "p4", "p0"],
        ["p1", "p2", "p3"],
        ["p4", "p0", "p1"],
        ["p2", "p3", "p4"],
    ]


def test_epochs_are_shuffled_anew_and_differ_between_seeds():
    first = PromptSampler(prompts(50), 50, seed=1)
    one, two = ids([first.next_batch()]), ids([first.next_batch()])
    other = ids([PromptSampler(prompts(50), 50, seed=2).next_batch()])
    assert one != two and one != other and sorted(one) == sorted(two) == sorted(other)


def test_the_order_neither_reads_nor_moves_the_global_generators():
    np.random.seed(0)
    random.seed(0)
    before = (np.random.get_state()[1].tolist(), random.getstate())
    sampler = PromptSampler(prompts(20), 4, seed=3)
    one = ids(sampler.next_batch() for _ in range(12))
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before
    np.random.seed(99)
    sampler = PromptSampler(prompts(20), 4, seed=3)
    assert ids(sampler.next_batch() for _ in range(12)) == one


def test_epoch_counts_complete_passes():
    sampler = PromptSampler(prompts(4), 2, seed=0)
    seen = [sampler.epoch]
    for _ in range(5):
        sampler.next_batch()
        seen.append(sampler.epoch)
    assert seen == [0, 0, 1, 1, 2, 2]


def test_all_prompts_are_equally_likely_to_come_first():
    firsts = [PromptSampler(prompts(4), 1, seed=s).next_batch()[0].id for s in range(4000)]
    shares = [firsts.count(f"p{i}") / 4000 for i in range(4)]
    assert all(abs(share - 0.25) < 0.035 for share in shares)  # five standard deviations


@pytest.mark.parametrize("size", [0, -1, 6])
def test_a_batch_that_the_data_cannot_fill_is_refused_at_construction(size):
    with pytest.raises(ConfigError, match="1 to 5, the number of prompts"):
        PromptSampler(prompts(5), size, seed=0)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: PromptSampler(prompts(6), 2, 0), "prompts = 6"),
        (lambda: PromptSampler(prompts(6)[1:], 2, 0), "prompt ids"),
        (lambda: PromptSampler(prompts(5), 3, 0), "prompts_per_step = 3"),
        (lambda: PromptSampler(prompts(5), 2, 1), "seed = 1"),
        (lambda: PromptSampler(prompts(5), 2, 0, shuffle=False), "shuffle = False"),
    ],
)
def test_a_position_saved_under_other_settings_is_refused_and_the_difference_named(other, named):
    saved = PromptSampler(prompts(5), 2, 0).state_dict()
    with pytest.raises(CheckpointError, match=named):
        other().load_state_dict(saved)


@pytest.mark.parametrize("seed", range(20))
def test_a_prompt_that_would_repeat_in_a_batch_moves_back_just_behind_that_batch(seed):
    old = ids([PromptSampler(prompts(10), 10, seed).next_batch()])
    undisturbed = PromptSampler(prompts(10), 10, seed)
    undisturbed.next_batch()
    new = ids([undisturbed.next_batch()])

    sampler = PromptSampler(prompts(10), 4, seed)
    drawn = ids(sampler.next_batch() for _ in range(5))
    assert drawn[:10] == old
    straddling, head, waiting = old[8:], [], []
    for name in new:
        if len(head) < 2 and name not in straddling:
            head.append(name)
        else:
            waiting.append(name)
    assert drawn[10:] == head + waiting


@given(shapes(), st.lists(st.lists(st.integers(0, 12), max_size=4), min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_a_step_that_draws_further_prompts_holds_none_twice_and_keeps_the_epochs_whole(shape, steps):
    count, size, seed, shuffle = shape
    sampler = PromptSampler(prompts(count), size, seed, shuffle)
    times = dict.fromkeys(range(count), 0)
    for further in steps:
        step = [p.token_ids[0] for p in sampler.next_batch()]
        for wanted in further:
            more = [p.token_ids[0] for p in sampler.more(wanted)]
            assert len(more) == min(wanted, count - len(step))
            step += more
        assert len(set(step)) == len(step)
        for index in step:
            times[index] += 1
        assert max(times.values()) - min(times.values()) <= 1
        assert sampler.epoch == sum(times.values()) // count


@given(shapes(), st.lists(st.integers(0, 6), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_resuming_after_steps_that_drew_further_prompts_gives_the_same_order(shape, further):
    count, size, seed, shuffle = shape
    straight = PromptSampler(prompts(count), size, seed, shuffle)
    for wanted in further:
        straight.next_batch()
        straight.more(wanted)
    resumed = PromptSampler(prompts(count), size, seed, shuffle)
    resumed.load_state_dict(json.loads(json.dumps(straight.state_dict())))
    for _ in range(10):
        assert resumed.next_batch() == straight.next_batch()
        assert resumed.more(3) == straight.more(3)
