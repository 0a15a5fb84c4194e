"""Published results of others as frames like our own: lm-eval result files from any folder, and published tables."""

from analysis.reference.published_frames import load_lm_eval, load_pythia, tinyllama_milestones

__all__ = [
    "load_lm_eval",
    "load_pythia",
    "tinyllama_milestones",
]
