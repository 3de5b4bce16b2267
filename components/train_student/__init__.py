"""Stage train_student, callable as a function."""

from components.train_student.stage import train_student

__all__ = ["train_student"]
