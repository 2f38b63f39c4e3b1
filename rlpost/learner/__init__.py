"""The policy's trainer: log-probs from a fused head, micro-batches, updates, optimizer state.

`Learner` says what every backend does; `TorchLearner` does it on plain torch, `DeepSpeedLearner` with
its state divided over the ranks. What both do alike is in `RankLearner`.
"""

from rlpost.learner.deepspeed_learner import DeepSpeedLearner
from rlpost.learner.learner import Learner
from rlpost.learner.torch_learner import TorchLearner

__all__ = ["DeepSpeedLearner", "Learner", "TorchLearner"]
