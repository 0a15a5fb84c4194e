"""lm-eval over our checkpoints, and what is still to be scored."""
