"""A stage's id: a hash of exactly the fields that change the weights at a given step.

Targets (where to stop, what to keep) and circumstances (threads, micro-batch, attention backend,
compile, world size, checkpoint interval, names) are not part of it, so that a longer budget extends
the existing trajectory instead of making a new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, cast

from workbench.config.schema import (
    LoraConfig,
    MixtureSegment,
    ModelConfig,
    OptimizerConfig,
    Origin,
    RopeScaling,
    Stage,
    StreamConfig,
    to_dict,
)
from workbench.config.schema import exact_weights as exact

ENGINE = 1
"""Version of the training arithmetic; raise it whenever the same fields would give different weights."""

_UPDATE_FIELDS = ("beta1", "beta2", "eps", "weight_decay", "clip_norm")
_SKIP_FIELDS = ("non_finite", "max_skips_in_a_row")
_MUON_FIELDS = ("kind", "momentum", "nesterov", "ns_steps", "rate_adjustment")
_YOUNGER_UPDATE_FIELDS = {"decay_coupling": "learning_rate", "z_loss": 0.0}
"""Fields of the optimizer that ids did not have from the start, and the values that leave them out."""


_YOUNGER = {
    "attention_bias": "none",
    "mlp_bias": False,
    "norm_bias": False,
    "parallel_residual": False,
    "rotary_share": 1.0,
    "rope_scaling": to_dict(RopeScaling()),
    "parametrisation": "standard",
}
"""Switches of a model that ids did not have from the start, and the values that leave them out."""

_BASES: dict[str, tuple[str, ...]] = {"standard": (), "mup": ("base_width", "base_head_width")}
_BASES["complete_p"] = (*_BASES["mup"], "base_layers")
"""Base shapes that a parametrisation looks at."""


def digest(value: Any, length: int = 16) -> str:
    """Hash plain values: the first `length` hex digits of SHA-256 over their canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def stage_id(stage: Stage) -> str:
    """Name the trajectory of a stage: 16 hex digits, equal for equal trajectories."""
    return _keep(stage, "_stage_id", lambda: digest(identity(stage)))


def _keep(value: Any, name: str, make: Callable[[], Any]) -> Any:
    """Compute something of a frozen object once; it is kept in the object, where neither fields nor copies show it."""
    kept = cast("dict[str, Any]", vars(value))
    if name not in kept:
        kept[name] = make()
    return kept[name]


def identity(stage: Stage) -> dict[str, Any]:
    """Everything that a stage's id is computed from, as plain values: the fields whose role is `identity`.

    Of pretraining, which is older than other kinds, the name of the kind is left out.
    """
    values: dict[str, Any] = {"engine": ENGINE}
    values |= {name: _plain(getattr(stage, name)) for name in identity_fields(stage)}
    if "seed_init" in values and stage.parent is not None:
        values["seed_init"] = None
    return values


def identity_fields(stage: Stage) -> list[str]:
    """Names of a stage's fields that count: those of the role `identity`, of younger ones where they have been set."""
    counts = [f for f in fields(stage) if f.metadata.get("role") == "identity"]
    names = [
        f.name for f in counts if not (f.metadata["younger"] and _plain(getattr(stage, f.name)) == _plain(_default(f)))
    ]
    return [name for name in names if not (name == "kind" and stage.kind == "pretrain")]


def _plain(value: Any) -> Any:
    return next((form for kind, form in _IDENTITIES.items() if isinstance(value, kind)), to_dict)(value)


def _default(f: Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default


def model_identity(model: ModelConfig) -> dict[str, Any]:
    """Shape and switches of a model, without its name; switches younger than the first ids only where they are turned."""
    return dict(_keep(model, "_model_identity", lambda: _model_identity(model)))


def _model_identity(model: ModelConfig) -> dict[str, Any]:
    left_out = {"name", *_BASES["complete_p"]}
    values = {name: value for name, value in to_dict(model).items() if name not in left_out}
    kept = {name: value for name, value in values.items() if name not in _YOUNGER or value != _YOUNGER[name]}
    return kept | {name: getattr(model.bases, name.removeprefix("base_")) for name in _BASES[model.parametrisation]}


def _optimizer_identity(optimizer: OptimizerConfig) -> dict[str, Any]:
    # Absent from the ids of stages that stop, which are older than the choice.
    skips = _SKIP_FIELDS if optimizer.non_finite == "skip" else ()
    muon = _MUON_FIELDS if optimizer.kind == "muon" else ()
    turned = [name for name, old in _YOUNGER_UPDATE_FIELDS.items() if getattr(optimizer, name) != old]
    return {name: getattr(optimizer, name) for name in (*_UPDATE_FIELDS, *skips, *muon, *turned)}


def _stream_identity(stream: StreamConfig) -> dict[str, Any]:
    return {
        "data": stream.data_fingerprint,
        "context_tokens": stream.context_tokens,
        "seed": stream.seed,
        "unique_tokens": {name: source.unique_tokens for name, source in sorted(stream.sources.items())},
        "mixture": [_segment_identity(segment) for segment in stream.mixture],
        # Absent from ids that are older than the choice.
        **({"document_mask": True} if stream.document_mask else {}),
        **({"packing": stream.packing} if stream.packing != "concatenate" else {}),
    }


def _segment_identity(segment: MixtureSegment) -> list[Any]:
    weights = {name: str(share) for name, share in sorted(exact(segment.weights).items())}
    return [segment.start_sequence, weights, segment.ramp_sequences]


def _adapters_identity(adapters: LoraConfig) -> dict[str, Any]:
    # Absent from ids that are older than the choice.
    return {name: value for name, value in to_dict(adapters).items() if (name, value) != ("quantize", "none")}


_IDENTITIES: dict[type, Callable[[Any], Any]] = {
    ModelConfig: model_identity,
    StreamConfig: _stream_identity,
    OptimizerConfig: _optimizer_identity,
    LoraConfig: _adapters_identity,
    Origin: lambda origin: origin.tokens,
    dict: lambda values: {name: to_dict(value) for name, value in values.items()},
}
"""Fields' types of which not everything is hashed, or in a form of its own."""
