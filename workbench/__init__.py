"""A research workbench for language-model scaling studies."""

__version__ = "0.1.0"
