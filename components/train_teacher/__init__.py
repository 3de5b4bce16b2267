"""Stage train_teacher, callable as a function."""

from components.train_teacher.stage import train_teacher

__all__ = ["train_teacher"]
