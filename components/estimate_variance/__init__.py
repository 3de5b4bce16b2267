"""Stage estimate_variance, callable as a function."""

from components.estimate_variance.stage import estimate_variance

__all__ = ["estimate_variance"]
