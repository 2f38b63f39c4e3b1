"""Rules over several keys of a configuration, one function each, in files by what they are about."""

from rlpost.config.rules.rules import RULES, check, reward_name, stage_objective

__all__ = ["RULES", "check", "reward_name", "stage_objective"]
