"""The networks that learn beside the policy: values for PPO, outcomes for OREAL.

`critic` has what all of them share; the backends are `torch_critic`, `deepspeed_critic` and `shared_critic`.
"""

from rlpost.learner.critic.critic import Critic, CriticPlan, load_critic

__all__ = ["Critic", "CriticPlan", "load_critic"]
