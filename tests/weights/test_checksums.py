import pytest
import torch

from rlpost.weights import checksum, copy_with_checksum
from rlpost.weights.checksums import CHUNK_BYTES


def test_a_checksum_sees_values_shape_and_dtype_but_not_strides():
    x = torch.arange(6.0).reshape(2, 3)
    others = [x + 1e-6, x.reshape(3, 2), x.double(), x.flip(0), x[:1]]
    assert len({checksum(t) for t in (x, *others)}) == 6
    assert checksum(x.t().contiguous().t()) == checksum(x)
    assert checksum(x.to(torch.bfloat16)) != checksum(x)


def test_a_checksum_sees_every_bit_of_a_tensor_of_several_chunks():
    data = torch.randint(0, 256, (2 * CHUNK_BYTES + 17,), dtype=torch.uint8)
    whole = checksum(data)
    for position in (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES, len(data) - 1):
        for bit in (1, 128):
            data[position] ^= bit
            assert checksum(data) != whole
            data[position] ^= bit
    assert checksum(data) == whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (7, 5), (CHUNK_BYTES // 2 + 3,), (3, CHUNK_BYTES // 8)])
def test_a_copy_has_the_checksum_of_its_target(dtype, shape):
    source = 100 * torch.randn(shape)
    for given in (source, source.t() if len(shape) == 2 else source, source.to(dtype)):
        target = torch.empty(given.shape, dtype=dtype)
        found = copy_with_checksum(given, target)
        assert torch.equal(target, given.to(dtype))
        assert found == checksum(target) == checksum(given.to(dtype))
