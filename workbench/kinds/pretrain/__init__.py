"""Training on prepared text: the phases of a recipe."""
