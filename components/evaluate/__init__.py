"""Stage evaluate, callable as a function."""

from components.evaluate.stage import evaluate

__all__ = ["evaluate"]
