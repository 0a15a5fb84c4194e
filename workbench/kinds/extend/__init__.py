"""A longer context: a rescaled model, and further training at the new context."""
