import pickle

import pytest
import torch

from rlpost.errors import WeightTransferError
from rlpost.weights import TransferReceipt, WeightBundle, verify_receipt


def bundle():
    return WeightBundle.of(2, {"a": torch.arange(4.0), "b": torch.zeros(2, 3), "empty": torch.zeros(0)})


def test_a_faithful_receipt_verifies_even_after_pickling():
    sent = pickle.loads(pickle.dumps(bundle()))
    verify_receipt(sent, TransferReceipt(2, dict(bundle().checksums)))


@pytest.mark.parametrize(
    ("version", "change", "words"),
    [
        (1, {}, ["version 1", "version 2"]),
        (2, {"b": 7}, ["tensor 'b'", "checksum 0000000000000007"]),
        (2, {"b": None}, ["tensor 'b'", "missing"]),
        (2, {"c": 1}, ["tensor 'c'", "no such tensor"]),
        (1, {"b": None}, ["tensor 'b'", "missing"]),
    ],
)
def test_an_unfaithful_receipt_is_refused_with_what_differs(version, change, words):
    checksums = {k: v for k, v in (dict(bundle().checksums) | change).items() if v is not None}
    with pytest.raises(WeightTransferError) as caught:
        verify_receipt(bundle(), TransferReceipt(version, checksums), where="engine 5")
    for word in (*words, "engine 5"):
        assert word in str(caught.value)
