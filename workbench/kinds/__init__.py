"""Kinds of stages: what a study's graph is made of. `workbench.config.kind_registry` finds them by name."""
