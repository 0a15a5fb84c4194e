"""From MLflow to tidy frames, fits and figures; needs neither torch nor hydra."""
