"""Configuration: YAML recipes and command-line overrides to one checked RunConfig.

`load_config` reads, `dump_config` writes, `explain` says in words what a configuration does.
"""

from rlpost.config.explain import explain, sizes
from rlpost.config.loader import dump_config, load_config
from rlpost.config.rules import stage_objective
from rlpost.config.schema import RunConfig

__all__ = ["RunConfig", "dump_config", "explain", "load_config", "sizes", "stage_objective"]
