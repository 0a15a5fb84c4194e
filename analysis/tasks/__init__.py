"""Task scores against tokens: which curves are at chance, saturated, or falling while training continues."""

from analysis.tasks.curves import task_curves

__all__ = [
    "task_curves",
]
