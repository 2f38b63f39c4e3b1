"""rlpost post-trains language models with reinforcement learning.

Every algorithm is one row of a table over one gradient estimator: see `rlpost.estimator`.
"""

__version__ = "0.1.0"
