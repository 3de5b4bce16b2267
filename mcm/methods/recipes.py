"""The training methods by name: one row each, whose class lies in the method's own file."""

from mcm.methods.consistency import ConsistencyDistillation, ConsistencyTraining
from mcm.methods.recipe import Recipe

RECIPES: dict[str, type[Recipe]] = {
    "cd": ConsistencyDistillation,
    "ct": ConsistencyTraining,
}
