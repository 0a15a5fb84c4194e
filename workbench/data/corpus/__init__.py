"""Corpora of any size: made in shards, by any number of processes, without duplicates and clean of what is tested."""
