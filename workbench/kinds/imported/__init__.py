"""A checkpoint from outside as the beginning of a chain."""
