"""The stage of pretraining, which has nothing beside what every training has; its settings are the recipe."""

from __future__ import annotations

from workbench.config.schema import RecipeConfig, TrainingStage

Settings = RecipeConfig
Spec = TrainingStage
