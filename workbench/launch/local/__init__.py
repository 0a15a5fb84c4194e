"""Of a study's graph on this machine: workers, the devices that they get, and what a launch shows while it goes."""
