"""The decoder, its attention backends, and its Hugging Face form."""
