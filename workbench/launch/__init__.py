"""From a graph of stages to processes and jobs."""
