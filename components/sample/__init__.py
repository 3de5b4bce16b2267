"""The program behind `mcm sample`: pictures from a teacher or a student."""

from components.sample.stage import sample_pictures

__all__ = ["sample_pictures"]
