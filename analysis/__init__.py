"""From MLflow to tidy frames, fits and figures; needs neither torch nor hydra."""

from analysis.load import load_documents, load_history, load_runs, load_study

__all__ = ["load_documents", "load_history", "load_runs", "load_study"]
