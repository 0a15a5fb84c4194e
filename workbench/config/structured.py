"""The schemas as Hydra needs them: mutable structured configs, derived from the frozen classes."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import field, make_dataclass
from functools import cache
from typing import Any, cast

from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from workbench.config import schema
from workbench.config.schema import Config

_GROUPS: dict[str, type] = {
    "model": schema.ModelConfig,
    "data": schema.DataConfig,
    "tokenizer": schema.TokenizerConfig,
    "recipe": schema.RecipeConfig,
    "optimizer": schema.OptimizerConfig,
    "evaluation": schema.EvaluationConfig,
    "tracking": schema.TrackingConfig,
    "cluster": schema.ClusterConfig,
    "variant": schema.VariantConfig,
    "init": schema.InitConfig,
}
HYDRA_CHOICES = {"launcher": "local", "hydra_logging": "none", "job_logging": "none"}
"""Choices among Hydra's own groups. An `override` in `conf/config.yaml` would override a study file's: of the
overrides in defaults lists Hydra takes the first it meets, which is the primary config's."""


@cache
def register_schemas() -> None:
    """Store the schemas where the defaults lists of `conf/` look for them, once per process."""
    store = ConfigStore.instance()
    store.store(name="base_config", node=_mutable(Config))
    for group, cls in _GROUPS.items():
        store.store(group=group, name=f"base_{group}", node=_mutable(cls))
    hydra = HydraConf()
    hydra.defaults = [_choose(entry) for entry in hydra.defaults]
    store.store(group="hydra", name="config", node=hydra, provider="hydra")


def _choose(entry: dict[str, Any]) -> dict[str, Any]:
    return {group: HYDRA_CHOICES.get(group, choice) for group, choice in entry.items()}


def kind_of(key: str) -> Any:
    """Type of a field of `Config` by its dotted name, without `None`; None if there is no such field."""
    kind: Any = Config
    for part in key.split("."):
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if dataclasses.is_dataclass(kind) and not hasattr(kind, "class_of"):
            kind = typing.get_type_hints(kind).get(part)
        elif origin in (dict, list):
            kind = arguments[-1]
        else:
            return None
        kind = _without_none(kind)
    return kind


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(a for a in typing.get_args(kind) if a is not type(None))
    return kind


@cache
def _mutable(cls: type) -> type:
    """Derive a mutable dataclass with the fields of a frozen one, required ones `MISSING`."""
    hints = typing.get_type_hints(cls)
    fields: list[tuple[str, Any, Any]] = []
    for f in dataclasses.fields(cls):
        kind = _mutable_type(hints[f.name])
        default: Any
        if f.default is not dataclasses.MISSING:
            default = field(default=f.default)
        elif f.default_factory is not dataclasses.MISSING:
            default = field(default_factory=cast(Any, kind if dataclasses.is_dataclass(kind) else f.default_factory))
        else:
            default = field(default=MISSING)
        fields.append((f.name, kind, default))
    return make_dataclass(cls.__name__, fields)


def _mutable_type(kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if dataclasses.is_dataclass(_without_none(kind)):
            # Hydra cannot set a field inside one that is None, and takes `{}` for it; `from_dict` reads its values.
            return Any
        return typing.Optional[_mutable_type(_without_none(kind))]  # noqa: UP045
    if origin is list:
        return list[_mutable_type(arguments[0])]
    if origin is dict:
        return dict[str, _mutable_type(arguments[1])]
    if hasattr(kind, "class_of"):
        # Which class it is of, its values say.
        return Any
    if kind is int:
        # Hydra would refuse 1e6 and 1M here; `from_dict` reads both, and refuses anything else.
        return Any
    return _mutable(kind) if dataclasses.is_dataclass(kind) else kind
