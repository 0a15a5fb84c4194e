"""The average of checkpoints of one training."""
