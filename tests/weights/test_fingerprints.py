import pytest
import torch

from rlpost.weights.fingerprints import CHUNK_WORDS, fingerprints


def fingerprint(tensor):
    return fingerprints({"x": tensor})["x"]


@pytest.mark.parametrize("size", [1, 7, 8, 9, 4099])
def test_a_fingerprint_changes_with_every_single_bit(size):
    data = torch.randint(0, 256, (size,), dtype=torch.uint8)
    seen = {fingerprint(data)}
    positions = range(size) if size < 10 else (0, 1, size // 2, size - 2, size - 1)
    for position in positions:
        for bit in range(8):
            data[position] ^= 1 << bit
            seen.add(fingerprint(data))
            data[position] ^= 1 << bit
    assert len(seen) == 1 + 8 * len(positions)


def test_a_fingerprint_sees_signs_that_changed_in_two_places_and_values_that_changed_places():
    x = torch.randn(1000)
    both, swapped, signs = x.clone(), x.clone(), x.clone()
    both[[10, 501]] *= -1
    swapped[[10, 501]] = swapped[[501, 10]]
    signs[11] = -signs[11]
    swapped_signs = signs.clone()
    swapped_signs[[11, 13]] = x[[11, 13]] * torch.tensor([1.0, -1.0])
    rolled = x.roll(1), x.roll(2), x.flip(0)
    assert len({fingerprint(t) for t in (x, both, swapped, signs, swapped_signs, *rolled)}) == 8


def test_a_fingerprint_sees_dtype_shape_and_length_but_not_strides_or_where_the_memory_begins():
    x = torch.arange(6.0).reshape(2, 3)
    others = [x.double(), x.reshape(3, 2), x.reshape(6), x[:1], torch.zeros(2, 3), torch.zeros(3, 3)]
    assert len({fingerprint(t) for t in (x, *others)}) == 7
    assert fingerprint(x.t().contiguous().t()) == fingerprint(x)
    padded = torch.zeros(100, dtype=torch.uint8)
    for start in range(9):
        padded[start : start + 24] = x.reshape(-1).view(torch.uint8)
        assert fingerprint(padded[start : start + 24].clone()) == fingerprint(padded[start : start + 24])


def test_a_fingerprint_of_several_chunks_sees_chunks_that_changed_places():
    words = torch.randint(-(2**62), 2**62, (2 * CHUNK_WORDS + 3,))
    swapped = torch.cat([words[CHUNK_WORDS : 2 * CHUNK_WORDS], words[:CHUNK_WORDS], words[-3:]])
    assert fingerprint(words) != fingerprint(swapped)
    assert fingerprint(words) == fingerprint(words.clone())


def test_fingerprints_of_tensors_are_told_apart_by_name_and_none_are_those_of_nothing():
    a, b = torch.randn(5), torch.randn(5)
    found = fingerprints({"a": a, "b": b, "empty": torch.empty(0, 3)})
    swapped = fingerprints({"a": b, "b": a, "empty": torch.empty(3, 0)})
    assert found["a"] == swapped["b"] != found["b"]
    assert found["empty"] != swapped["empty"]
    assert fingerprints({}) == {}
