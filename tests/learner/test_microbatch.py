import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlpost.data.collate import ModelInputs
from rlpost.errors import DataError
from rlpost.learner.microbatch import cut, oversized, pack, pad, shard

lengths_and_limit = st.tuples(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 100))


def test_rows_are_cut_into_as_few_even_microbatches_as_fit():
    assert cut([6, 5, 4, 3], 10) == [[0, 3], [1, 2]]
    assert cut([2, 2, 2, 2, 2, 2], 8) == [[0, 2, 4], [1, 3, 5]]  # 6 + 6, not 8 + 4
    assert cut([7, 7, 6, 5, 5], 15) == [[0, 4], [1], [2, 3]]  # 12 + 7 + 11, not 14 + 11 + 5
    assert cut([], 10) == []


def test_evening_out_never_breaks_the_limit():
    # Dealing out the longest first would give 5 + 3 + 3 = 11; best fit finds 9 + 10.
    assert cut([5, 4, 4, 3, 3], 10) == [[0, 1], [2, 3, 4]]


def test_a_row_above_the_limit_is_a_microbatch_of_its_own_and_counted():
    assert cut([4, 25, 3], 10) == [[1], [0, 2]]
    assert oversized([4, 25, 3], 10) == 1
    assert oversized([10], 10) == 0


def test_padded_rows_are_bucketed_by_length_and_padding_counts():
    assert cut([1, 10, 9, 2, 3], 20, "padded") == [[1, 2], [0, 3, 4]]
    assert cut([1, 10, 9, 2, 3], 19, "padded") == [[1], [2, 4], [0, 3]]


@given(lengths_and_limit, st.sampled_from(["packed", "padded"]))
def test_every_row_is_cut_once_and_only_single_rows_exceed_the_limit(case, layout):
    lengths, limit = case
    bins = cut(lengths, limit, layout)
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    assert all(rows and rows == sorted(rows) for rows in bins)
    for rows in bins:
        taken = [lengths[row] for row in rows]
        size = sum(taken) if layout == "packed" else len(taken) * max(taken)
        assert size <= limit or len(rows) == 1
    assert cut(lengths, limit, layout) == bins


@given(lengths_and_limit)
def test_packed_microbatches_are_half_full_on_average(case):
    lengths, limit = case
    bins = cut(lengths, limit)
    assert len(bins) <= 1 or len(bins) * limit < 2 * sum(lengths)


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 5))
def test_shards_hold_every_row_once_with_tokens_even_to_one_row(lengths, ranks):
    shards = shard(lengths, ranks)
    assert len(shards) == ranks
    assert sorted(row for rows in shards for row in rows) == list(range(len(lengths)))
    loads = [sum(lengths[row] for row in rows) for rows in shards]
    assert max(loads) - min(loads) <= max(lengths, default=0)


def test_fewer_rows_than_ranks_leave_ranks_without_rows():
    assert shard([5, 9], 4) == [[1], [0], [], []]


def rows() -> ModelInputs:
    return ModelInputs(
        (torch.tensor([10, 11]), torch.tensor([20]), torch.tensor([30, 31, 32])),
        (torch.tensor([12, 13]), torch.tensor([21, 22, 23]), torch.tensor([], dtype=torch.int64)),
    )


def test_packing_puts_rows_end_to_end_without_their_last_tokens():
    batch = pack(rows())
    assert batch.input_ids.tolist() == [[10, 11, 12, 20, 21, 22, 30, 31]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 0, 1]]
    assert batch.attention_mask is None
    assert batch.lengths == (3, 3, 2)
    assert batch.hidden_N.tolist() == [1, 2, 3, 4, 5]
    assert batch.target_N.tolist() == [12, 13, 21, 22, 23]


def test_padding_puts_rows_below_each_other():
    batch = pad(rows(), pad_token_id=7)
    assert batch.input_ids.tolist() == [[10, 11, 12], [20, 21, 22], [30, 31, 7]]
    assert batch.position_ids.tolist() == [[0, 1, 2]] * 3
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 0]]
    assert batch.hidden_N.tolist() == [1, 2, 3, 4, 5]
    assert batch.target_N.tolist() == [12, 13, 21, 22, 23]


def test_a_prompt_without_tokens_is_refused_with_its_row():
    inputs = ModelInputs((torch.tensor([1]), torch.tensor([], dtype=torch.int64)), (torch.tensor([2]),) * 2)
    with pytest.raises(DataError, match="row 1 of the batch"):
        pack(inputs)
