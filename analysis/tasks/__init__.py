"""Task scores against tokens: which curves are at chance, saturated, or fall though training went on."""

from analysis.tasks.curves import task_curves

__all__ = [
    "task_curves",
]
