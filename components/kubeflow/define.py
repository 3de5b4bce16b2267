"""How every stage becomes a KFP component."""

from collections.abc import Callable
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

IMAGE = "multistep-consistency"  # stands for the image that a profile puts in its place, by digest
START = "_KFP_RUNTIME=true python3 -m"


def component(function: Callable[..., Any]) -> BaseComponent:
    """A lightweight component of `function`, which runs in an image that holds the project and kfp.

    kfp starts Python as a child of a shell, which passes on no signal. Here the shell becomes Python, so that a stop of
    the container reaches the stage, which then writes a checkpoint.
    """
    made = dsl.component(function, base_image=IMAGE, install_kfp_package=False)
    container = made.component_spec.implementation.container
    container.command = [word.replace(START, f"exec env {START}") for word in container.command]
    return made
