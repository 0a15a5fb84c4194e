"""Schema and composition of a study's configuration."""
