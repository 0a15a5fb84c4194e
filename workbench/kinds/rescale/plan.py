"""From a model to the same with a longer context."""

from __future__ import annotations

from dataclasses import replace

from workbench.config.schema import Config, ModelConfig, Parent, RopeScaling, Stage
from workbench.kinds.imported.spec import Spec as Imported
from workbench.kinds.rescale.spec import Settings, Spec
from workbench.study.identity import stage_id
from workbench.study.kind_plan import main_line


def expand(settings: Settings, config: Config, before: list[Stage], data_fingerprint: str) -> list[Stage]:
    """Make the one stage that changes the last stage's model.

    Raises
    ------
    ValueError
        There is nothing before, or its model has no RoPE, or no shorter context, or is scaled already, or reads less than
        it was made for.
    """
    if not before:
        raise ValueError("then: a longer context is a model's, but no stage comes before it")
    last = before[-1]
    _check_uncut(settings, config, before)
    model = rescaled(last.model, settings)
    return [
        Spec(
            parent=Parent(stage_id(last), last.end_tokens),
            model=model,
            data=data_fingerprint,
            name=stage_name(settings.method, last.model.context_tokens, model.context_tokens),
            end_tokens=last.end_tokens,
            milestones=[last.end_tokens],
            numerics=config.numerics,
            checkpoint=config.checkpoint,
            resources=config.resources,
        )
    ]


def _check_uncut(settings: Settings, config: Config, before: list[Stage]) -> None:
    """Refuse to scale a checkpoint whose context was cut: the factor is that of the context that was trained."""
    _, first = main_line(before)[0]
    last, new = before[-1].model, settings.context_tokens
    native = first.native_context_tokens if isinstance(first, Imported) else None
    if native is None or last.context_tokens >= native or settings.method == "none" or new <= last.context_tokens:
        return
    if config.init.context_tokens is None:
        cut = f"reads no further than {last.context_tokens} of its {native} positions at once (sliding_window)"
        advice = "only method=none can raise its context"
    else:
        cut = f"was cut to {last.context_tokens} of its {native} tokens"
        advice = "leave out init.context_tokens"
    if new <= native:
        cut, advice = f"{cut}, so that {new} need no scaling", "take method=none"
    raise ValueError(
        f"then: method={settings.method!r} scales by the context that was trained, but {last.name} {cut}: {advice}"
    )


def rescaled(model: ModelConfig, settings: Settings) -> ModelConfig:
    """Give a model the new context, and the frequencies that the method gives it.

    Raises
    ------
    ValueError
        It has no RoPE, or no shorter context, or is scaled already.
    """
    old, new, method = model.context_tokens, settings.context_tokens, settings.method
    if model.position != "rope":
        raise ValueError(
            f"then: context_tokens={new}, but {model.name} has model.position={model.position!r}: only a model with RoPE "
            "can be given a longer context"
        )
    if new <= old:
        raise ValueError(f"then: context_tokens={new} is not longer than the {old} tokens of {model.name}: raise it")
    if method == "none":
        return replace(model, context_tokens=new)
    if model.rope_scaling.kind != "none":
        raise ValueError(
            f"then: method={method!r}, but {model.name} has model.rope_scaling.kind={model.rope_scaling.kind!r} already: "
            "only method=none can follow"
        )
    original = old if method == "yarn" else None
    return replace(model, context_tokens=new, rope_scaling=RopeScaling(method, new / old, original))


def stage_name(method: str, old: int, new: int) -> str:
    """Name a stage by its method and the ratio of the contexts, as `yarn x4`; `unscaled x4` for `none`."""
    return f"{'unscaled' if method == 'none' else method} x{new / old:g}"
