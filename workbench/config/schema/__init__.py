"""Configuration of a study: frozen dataclasses, with units in their names.

There are two families. `Config` and its parts are what a researcher writes (Hydra composes them,
`workbench.config.compose` builds them, and Hydra ends there). `Stage` is what the planner makes of
them: one piece of one training trajectory, which can be run from its directory alone.

Every class validates itself when it is made: `__post_init__` raises `ValueError` quoting the value,
does no I/O and changes nothing. Only the standard library is imported.
"""

from __future__ import annotations

from workbench.config.plain import exact_weights, from_dict, to_dict
from workbench.config.schema.adapters import LORA_TARGETS, LoraConfig
from workbench.config.schema.begin import InitConfig, KindSettings
from workbench.config.schema.chat_data import CHAT_KINDS, CHAT_TEMPLATES, PACKINGS, TOO_LONG, ChatDataConfig
from workbench.config.schema.cluster import ClusterConfig
from workbench.config.schema.corpus import CorpusConfig
from workbench.config.schema.data import SOURCE_KINDS, TOKENIZER_KINDS, DataConfig, SourceConfig, TokenizerConfig
from workbench.config.schema.machine import (
    ATTENTIONS,
    COMPILE_UNITS,
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
from workbench.config.schema.published_cost import PublishedCost
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
from workbench.config.schema.stage import (
    MixtureSegment,
    Origin,
    Parent,
    Schedule,
    Stage,
    StreamConfig,
    StreamSource,
    TrainingStage,
    circumstance,
    fields_of_role,
    identity,
    target,
)

__all__ = [
    "ANALYSES",
    "ATTENTIONS",
    "CHAT_KINDS",
    "CHAT_TEMPLATES",
    "COMPILE_UNITS",
    "DECAYS",
    "DEVICES",
    "KV_HEADS",
    "LORA_TARGETS",
    "MLPS",
    "NORMS",
    "PACKINGS",
    "PARALLELS",
    "PARAMETRISATIONS",
    "POSITIONS",
    "PRECISIONS",
    "SOURCE_KINDS",
    "SPANS",
    "TOKENIZER_KINDS",
    "TOO_LONG",
    "BudgetConfig",
    "ChatDataConfig",
    "CheckpointConfig",
    "ClusterConfig",
    "Config",
    "CorpusConfig",
    "DataConfig",
    "EvaluationConfig",
    "InitConfig",
    "KindSettings",
    "LoraConfig",
    "MixtureSegment",
    "ModelConfig",
    "NumericsConfig",
    "OptimizerConfig",
    "Origin",
    "Parent",
    "PathsConfig",
    "PhaseConfig",
    "PublishedCost",
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
    "TrainingStage",
    "VariantConfig",
    "circumstance",
    "exact_weights",
    "fields_of_role",
    "from_dict",
    "identity",
    "target",
    "to_dict",
]
