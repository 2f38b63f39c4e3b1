"""The proofs of a weight transfer: receipts on every one, probes on the first and every N-th."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from rlpost.errors import WeightTransferError
from rlpost.weights.bundle import TransferReceipt, WeightBundle, verify_receipt

if TYPE_CHECKING:
    from torch import nn

Logprobs = Sequence[Sequence[float]]
"""Per probe sequence, the log-probs of its tokens 1.., in nats."""


def policy_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and persistent buffer by name, tied ones once; the model's own tensors, no copies."""
    persistent = model.state_dict(keep_vars=True).keys()
    buffers = {name: tensor for name, tensor in model.named_buffers() if name in persistent}
    return dict(model.named_parameters()) | buffers


class WeightTransfer:
    """Checks each publication of the policy's weights; the caller moves them.

    For every version: `check` the engines' receipts; when `due`, `check_probe` too.

    Args:
        probe_every: versions between two probes; the first transfer seen is always probed.
        tolerance: largest allowed |log-prob difference| between an engine and the learner, nats.
        probe_sequences: the fixed token sequences that learner and engines are asked about.
    """

    def __init__(
        self, probe_every: int, tolerance: float, probe_sequences: Sequence[tuple[int, ...]]
    ) -> None:
        if not any(len(sequence) > 1 for sequence in probe_sequences):
            raise ValueError("a probe needs at least one sequence of two tokens or more")
        self.probe_sequences = tuple(probe_sequences)
        self._probe_every = probe_every
        self._tolerance = tolerance
        self._probed = False

    def due(self, version: int) -> bool:
        """Whether the transfer of `version` is to be probed.

        Decided by the version, so a resumed run probes the same versions as one that was not
        interrupted, besides the one it starts with.
        """
        return not self._probed or version % self._probe_every == 0

    def check(self, bundle: WeightBundle, receipts: Sequence[TransferReceipt]) -> dict[str, float]:
        """Compare what every engine holds with what was sent.

        Returns:
            weights/version, weights/tensors (count) and weights/bytes (of one copy).

        Raises:
            WeightTransferError: an engine holds another version or another tensor.
        """
        if not receipts:
            raise WeightTransferError("no engine confirmed the weights", found="no receipt")
        for engine, receipt in enumerate(receipts):
            verify_receipt(bundle, receipt, where=f"engine {engine}")
        return {
            "weights/version": float(bundle.version),
            "weights/tensors": float(len(bundle.tensors)),
            "weights/bytes": float(bundle.nbytes),
        }

    def check_probe(self, engines: Sequence[Logprobs], learner: Logprobs) -> dict[str, float]:
        """Compare every engine's log-probs of the probe sequences with the learner's.

        Returns:
            weights/probe_gap: the largest |difference| over engines and tokens, in nats.

        Raises:
            WeightTransferError: the gap exceeds the tolerance, is not a number, or an engine
                answered for other tokens.
        """
        if not engines:
            raise WeightTransferError("no engine answered the probe", found="no answer")
        gaps = [self._gap(f"engine {e}", answer, learner) for e, answer in enumerate(engines)]
        self._probed = True
        return {"weights/probe_gap": max(gaps)}

    def _gap(self, engine: str, answer: Logprobs, learner: Logprobs) -> float:
        sizes, needed = [len(a) for a in answer], [len(a) for a in learner]
        expected = [max(0, len(sequence) - 1) for sequence in self.probe_sequences]
        if not sizes == needed == expected:
            raise WeightTransferError(
                "the probe was answered for other tokens than asked",
                where=engine,
                found=f"{sizes} log-probs from the engine, {needed} from the learner",
                needed=f"{expected}, one per token after the first of each sequence",
            )
        worst, where = 0.0, engine
        for s, (ours, theirs) in enumerate(zip(learner, answer, strict=True)):
            for t, (a, b) in enumerate(zip(ours, theirs, strict=True), start=1):
                gap = abs(a - b)
                # A NaN compares false with everything, so it must not be sought with `>`.
                if not gap <= worst:
                    worst, where = gap, f"{engine}, probe sequence {s}, token {t}"
                if not gap <= self._tolerance:
                    raise self._failure(gap, where)
        return worst

    def _failure(self, gap: float, where: str) -> WeightTransferError:
        return WeightTransferError(
            "the engine's log-probs are not the learner's: it samples from other weights",
            where=where,
            found=f"a gap of {gap:.3g} nats",
            needed=f"at most {self._tolerance:g} (weights.probe_tolerance)",
            remedy="if every tensor's checksum agreed, look for a cache of the old weights or a packed copy",
        )
