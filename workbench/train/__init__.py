"""One stage of one trajectory, from checkpoint to checkpoint."""
