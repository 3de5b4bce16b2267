"""The whole of `params.yaml`, checked before anything runs, and the students that it asks for."""

import re
from collections.abc import Mapping
from typing import Any

from components.estimate_variance.stage import VarianceConfig
from components.evaluate.stage import EvaluationConfig
from components.runner import SECTIONS, section
from components.students import student_config
from components.train_teacher.stage import TeacherConfig
from components.training import NetworkConfig, ScheduleConfig
from mcm.config import Config, suggest
from mcm.data.config import DataConfig
from mcm.errors import UserError
from mcm.methods.recipes import RECIPES
from mcm.networks.presets import network_config

KINDS: dict[str, type[Config]] = {
    "data": DataConfig,
    "network": NetworkConfig,
    "schedule": ScheduleConfig,
    "teacher": TeacherConfig,
    "variance": VarianceConfig,
    "evaluation": EvaluationConfig,
}


def check(params: Mapping[str, Any]) -> None:
    """Every section parses, and so does every student: a misspelt key is found before hours of training."""
    for name in params:
        if name not in SECTIONS:
            raise UserError(f"parameters: unknown section '{name}'; {suggest(str(name), list(SECTIONS))}")
    for name, kind in KINDS.items():
        section(params, name, kind)
    data, network = section(params, "data", DataConfig), section(params, "network", NetworkConfig)
    network_config(network.preset, data.resolution, data.channels or 3, dropout=network.dropout)
    students(params)


def students(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry for each method and number of steps, methods outermost: name, method, student_steps, parameters.

    `parameters` is the section `students` of that student alone, resolved: its cache key changes only when it does.
    """
    listed = params.get("students") or {}
    methods, steps = listed.get("methods"), listed.get("steps")
    if not methods or not steps:
        raise UserError("parameters, section 'students': no methods or no steps; name at least one of each")
    # Sections of methods and steps that this run leaves out may stay.
    known = ("methods", "steps", "common", *RECIPES, *(f"{method}-{n}" for method in methods for n in steps))
    for key in listed:
        if key not in known and not re.fullmatch(rf"({'|'.join(RECIPES)})-[1-9]\d*", key):
            raise UserError(f"parameters, section 'students': unknown key '{key}'; {suggest(key, sorted(set(known)))}")
    return [
        {
            "name": f"{method}-{n}",
            "method": method,
            "student_steps": n,
            "parameters": {"common": student_config(params, method, n).resolved()},
        }
        for method in methods
        for n in steps
    ]
