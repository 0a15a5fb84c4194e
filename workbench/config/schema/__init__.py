"""Configuration of a study: frozen dataclasses, with units in their names.

There are two families. `Config` and its parts are what a researcher writes (Hydra composes them,
`workbench.config.compose` builds them, and Hydra ends there). `Stage` is what the planner makes of
them: one piece of one training trajectory, which can be run from its directory alone.

Every class validates itself when it is made: `__post_init__` raises `ValueError` quoting the value,
does no I/O and changes nothing. Only the standard library is imported.
"""

from __future__ import annotations

from workbench.config.plain import exact_weights, from_dict, to_dict
from workbench.config.schema.cluster import ClusterConfig
from workbench.config.schema.data import SOURCE_KINDS, TOKENIZER_KINDS, DataConfig, SourceConfig, TokenizerConfig
from workbench.config.schema.machine import (
    ATTENTIONS,
    DEVICES,
    PARALLELS,
    BudgetConfig,
    CheckpointConfig,
    NumericsConfig,
    ResourcesConfig,
)
from workbench.config.schema.model import (
    KV_HEADS,
    MLPS,
    NORMS,
    PARAMETRISATIONS,
    POSITIONS,
    ModelConfig,
    RopeScaling,
    VariantConfig,
)
from workbench.config.schema.point import ANALYSES, Config, PathsConfig, TrackingConfig
from workbench.config.schema.recipe import (
    DECAYS,
    PRECISIONS,
    SPANS,
    EvaluationConfig,
    OptimizerConfig,
    PhaseConfig,
    RecipeConfig,
    SuiteConfig,
)
from workbench.config.schema.stage import MixtureSegment, Parent, Schedule, Stage, StreamConfig, StreamSource

__all__ = [
    "ANALYSES",
    "ATTENTIONS",
    "DECAYS",
    "DEVICES",
    "KV_HEADS",
    "MLPS",
    "NORMS",
    "PARALLELS",
    "PARAMETRISATIONS",
    "POSITIONS",
    "PRECISIONS",
    "SOURCE_KINDS",
    "SPANS",
    "TOKENIZER_KINDS",
    "BudgetConfig",
    "CheckpointConfig",
    "ClusterConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "MixtureSegment",
    "ModelConfig",
    "NumericsConfig",
    "OptimizerConfig",
    "Parent",
    "PathsConfig",
    "PhaseConfig",
    "RecipeConfig",
    "ResourcesConfig",
    "RopeScaling",
    "Schedule",
    "SourceConfig",
    "Stage",
    "StreamConfig",
    "StreamSource",
    "SuiteConfig",
    "TokenizerConfig",
    "TrackingConfig",
    "VariantConfig",
    "exact_weights",
    "from_dict",
    "to_dict",
]
