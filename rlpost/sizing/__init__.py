"""How much memory a recipe will take, by role and by place: arithmetic on the model's configuration.

Nothing is loaded, and no weight is read. `docs/sizing.md` has the formulas.
"""

from rlpost.sizing.memory import Line, MemoryPlan, Place, Remedy, Role
from rlpost.sizing.planner import plan_memory
from rlpost.sizing.text import describe

__all__ = ["Line", "MemoryPlan", "Place", "Remedy", "Role", "describe", "plan_memory"]
