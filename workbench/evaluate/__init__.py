"""Scoring checkpoints with lm-eval, and finding out what is still to be scored."""
