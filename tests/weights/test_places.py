from itertools import pairwise

import torch

from rlpost.weights.places import cut_places, plan_places


def test_places_follow_each_other_aligned_and_buckets_keep_order_and_limit():
    tensors = {f"t{i}": torch.zeros(i % 40 + 1) for i in range(300)}
    places = plan_places(tensors, 64)
    for place, after in pairwise(places):
        assert place.offset % 64 == 0
        assert place.offset + tensors[place.name].nbytes <= place.end == after.offset
    buckets = list(cut_places(places, 1024))
    assert [place.name for bucket in buckets for place in bucket] == list(tensors)
    for bucket in buckets:
        assert bucket[-1].offset + bucket[-1].nbytes - bucket[0].offset <= 1024


def test_a_tensor_larger_than_a_bucket_travels_alone():
    sizes = {"a": 1, "large": 1000, "b": 1, "c": 1}
    places = plan_places({name: torch.zeros(n) for name, n in sizes.items()}, 0)
    buckets = [[place.name for place in bucket] for bucket in cut_places(places, 512)]
    assert buckets == [["a"], ["large"], ["b", "c"]]


def test_the_number_of_buckets_depends_on_bytes_and_not_on_tensors():
    for limit, expected in ((2**20, 1), (2**17, 8)):
        for count in (8, 1024):
            places = plan_places({f"w{i}": torch.zeros(2**18 // count) for i in range(count)}, 64)
            assert len(list(cut_places(places, limit))) == expected


def test_a_dtype_is_for_floating_tensors_alone():
    tensors = {"weight": torch.zeros(3), "steps": torch.zeros(2, dtype=torch.int64)}
    assert [p.dtype for p in plan_places(tensors, 0, torch.bfloat16)] == ["bfloat16", "int64"]
    assert [p.dtype for p in plan_places(tensors, 0)] == ["float32", "int64"]
