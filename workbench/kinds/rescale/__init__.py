"""A model with a longer context, whose weights are those of the stage before."""
