"""Corpora: data made in shards, as nodes of a study's graph that its stages read."""
