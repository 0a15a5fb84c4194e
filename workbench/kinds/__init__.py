"""Kinds of stages: what a study's graph is made of. `workbench.config.kinds` finds them by name."""
