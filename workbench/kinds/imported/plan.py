"""What importing needs: the checkpoint's files, from which a point takes its model and its tokenizer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from workbench.config.schema import Config, InitConfig, ModelConfig, Stage, TokenizerConfig
from workbench.kinds.imported.adapted_checkpoint import adapted_fingerprint, check_adapter
from workbench.kinds.imported.spec import Spec
from workbench.study.identity import stage_id
from workbench.study.layout import Layout


def resolve(settings: InitConfig, config: Config) -> tuple[InitConfig, Config]:
    """Read the checkpoint's config, tokenizer and fingerprint, and give the point its model and tokenizer.

    Raises
    ------
    ValueError
        There is no such checkpoint, it cannot be represented, its context is shorter than the one asked for, or the
        adapters cannot be merged into it.
    """
    from workbench.data.tokenizer import sized
    from workbench.evaluate.outside_checkpoint import find_for_plan

    assert settings.path is not None
    found = find_for_plan(settings.path, settings.revision)
    directory = found.directory
    is_local = Path(settings.path).expanduser().is_dir()
    fingerprint, name = found.fingerprint, _plain_name(settings.path)
    adapter = None if settings.adapter is None else Path(settings.adapter).expanduser().resolve()
    if adapter is not None:
        check_adapter(adapter, found.model)
        fingerprint, name = adapted_fingerprint(fingerprint, adapter), f"{name}-{_plain_name(adapter.name)}"
    name = settings.name or name
    model = replace(found.model, name=name, context_tokens=_context(settings, found.model))
    named = config.tokenizer if config.tokenizer.kind == "file" else TokenizerConfig(kind="file", path="-")
    tokenizer = sized(replace(named, path=str(directory)))
    resolved = replace(
        settings,
        name=name,
        fingerprint=fingerprint,
        adapter=None if adapter is None else str(adapter),
        native_context_tokens=found.native_context_tokens,
        licence=settings.licence or found.licence,
        path=str(directory) if is_local else settings.path,
        revision=None if is_local else directory.name if _is_commit(directory.name) else settings.revision,
    )
    return resolved, replace(config, model=model, tokenizer=tokenizer, init=resolved)


def _plain_name(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", Path(path).name)


def _is_commit(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}", name) is not None


def _context(settings: InitConfig, model: ModelConfig) -> int:
    own, asked = model.context_tokens, settings.context_tokens
    if asked is not None and asked > own:
        raise ValueError(f"init.context_tokens={asked} is longer than the checkpoint's context of {own} tokens")
    if asked is not None and asked != own and model.position == "learned":
        raise ValueError(f"init.context_tokens={asked} would cut the checkpoint's learned positions: leave it out")
    return asked or own


def expand(settings: InitConfig, config: Config, before: list[Stage], data_fingerprint: str) -> list[Stage]:
    """Make the one stage of a checkpoint from outside."""
    assert settings.path is not None
    assert settings.tokens is not None
    assert settings.fingerprint is not None
    return [
        Spec(
            parent=None,
            model=config.model,
            fingerprint=settings.fingerprint,
            tokens=settings.tokens,
            annealed=settings.annealed,
            data=data_fingerprint,
            path=settings.path,
            revision=settings.revision,
            adapter=settings.adapter,
            native_context_tokens=settings.native_context_tokens,
            licence=settings.licence or "unknown",
            name="imported",
            end_tokens=settings.tokens,
            milestones=[settings.tokens],
            numerics=config.numerics,
            checkpoint=config.checkpoint,
            resources=config.resources,
        )
    ]


def prepare(stage: Spec, config: Config, layout: Layout, say: Callable[[str], None]) -> None:
    """Fetch a hub's weights, of which the plan has read the checksums alone, where the stage is still to be done.

    Raises
    ------
    ValueError
        The hub does not give them.
    """
    from workbench.evaluate.outside_checkpoint import find_checkpoint
    from workbench.train.checkpoint import list_tokens

    if Path(stage.path).expanduser().is_dir() or list_tokens(layout.stage(stage_id(stage)))[0]:
        return
    say(f"fetching {stage.path} at {stage.revision} ...")
    find_checkpoint(stage.path, stage.revision)
