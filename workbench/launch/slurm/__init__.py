"""Of a study's graph on Slurm: what is missing is submitted once; claims, jobs, and what runs on the nodes."""
