"""The policy's trainer: log-probs from a fused head, micro-batches, updates, optimizer state.

`Learner` says what every backend does; `TorchLearner` does it on plain torch, alone or over gloo ranks.
"""

from rlpost.learner.learner import Learner
from rlpost.learner.torch_learner import TorchLearner

__all__ = ["Learner", "TorchLearner"]
