"""The training methods by name: one row each, whose class lies in the method's own file."""

from mcm.methods.consistency import ConsistencyDistillation, ConsistencyTraining
from mcm.methods.consistency_models import (
    ConsistencyModelDistillation,
    ConsistencyModelTraining,
    ImprovedTraining,
)
from mcm.methods.diffusion import DiffusionTraining
from mcm.methods.ect import EasyTuning
from mcm.methods.guidance_distillation import GuidanceDistillationRecipe
from mcm.methods.progressive import ProgressiveDistillation
from mcm.methods.recipe import Recipe
from mcm.methods.tract import TractDistillation
from mcm.methods.trajectory import ConsistencyTrajectory

RECIPES: dict[str, type[Recipe]] = {
    "cd": ConsistencyDistillation,
    "ct": ConsistencyTraining,
    "pd": ProgressiveDistillation,
    "tract": TractDistillation,
    "cm": ConsistencyModelTraining,
    "cmd": ConsistencyModelDistillation,
    "ict": ImprovedTraining,
    "ect": EasyTuning,
    "ctm": ConsistencyTrajectory,
    "gd": GuidanceDistillationRecipe,
    "diffusion": DiffusionTraining,
}
