"""Task scores against tokens: which curves are at chance, saturated, or falling while training continues."""

from analysis.tasks.curve_shapes import task_curves

__all__ = [
    "task_curves",
]
