"""From documents to a deterministic training stream."""
