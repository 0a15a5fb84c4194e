"""Supervised fine-tuning on conversations, of all weights or of adapters."""
