"""Hydra's launchers for the workbench; Hydra accepts them from the package `hydra_plugins` alone."""
