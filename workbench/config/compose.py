"""The one place that knows Hydra: from overrides to frozen `Config`s.

Hydra wants mutable structured configs; `_mutable` derives them from the frozen classes of
`workbench.config.schema`, so that Hydra refuses unknown keys and wrong types while it composes, and
the frozen classes' own checks run when `to_config` leaves Hydra's world for good.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import shlex
import tempfile
import types
import typing
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from workbench.config import schema
from workbench.config.schema import Config, from_dict
from workbench.study.rules import apply_variant

PROJECT_ROOT = Path(__file__).resolve().parents[2]
CONFIG_DIR = PROJECT_ROOT / "conf"
CONFIG_NAME = "config"

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
}


@dataclass(frozen=True)
class ComposedPoint:
    """One sweep point as Hydra gave it."""

    name: str
    """The overrides in which it differs from its siblings, as `model=m1,tokens=4000000`."""
    overrides: tuple[str, ...]
    """All overrides."""
    config: Config
    """The composed config."""


class Composer:
    """Hydra over this project's configs, for as long as `composer()` is entered."""

    def __init__(self, hydra: Hydra, search_path: Sequence[Path], options: Sequence[str] = ()) -> None:
        self._hydra, self._options = hydra, options
        self._search_path = [f"hydra.searchpath=[{','.join(f'file://{path}' for path in search_path)}]"]
        self._configs: dict[tuple[str, ...], Config] = {}
        self._siblings: dict[tuple[Any, ...], DictConfig] = {}
        # Kept from before `multirun` puts another in its place.
        self._load_sweep_config = hydra.config_loader.load_sweep_config
        self.command = ""
        """What a user would type to launch again; empty before `multirun`."""
        self._groups: dict[str, bool] = {}

    def master(self, overrides: Sequence[str]) -> DictConfig:
        """Hydra's config of a whole multirun, sweep overrides left out."""
        loader = self._hydra.config_loader
        with _one_line_errors():
            return loader.load_configuration(CONFIG_NAME, [*overrides, *self._search_path], RunMode.MULTIRUN)

    def points(self, overrides: Sequence[str]) -> list[ComposedPoint]:
        """Compose every point of the sweep that `overrides` ask for.

        Raises
        ------
        ValueError
            The overrides do not compose, or a point's config is impossible.
        """
        master = self.master(overrides)
        with _one_line_errors():
            parser = OverridesParser.create(config_loader=self._hydra.config_loader)
            params = cast(dict[str, Any], OmegaConf.to_container(master.hydra.sweeper.params or OmegaConf.create()))
            task = cast(list[str], OmegaConf.to_container(master.hydra.overrides.task))
            arguments = parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *task])
            batches = BasicSweeper.split_arguments(arguments, None)
        return self.compose(master, batches[0])

    def compose(self, master: DictConfig, batch: Sequence[Sequence[str]]) -> list[ComposedPoint]:
        """Compose one batch of a multirun; `batch` holds each point's overrides."""
        names = _point_names(batch)
        configs = [self._compose_one(master, tuple(overrides)) for overrides in batch]
        return [
            ComposedPoint(name, tuple(overrides), config)
            for name, overrides, config in zip(names, batch, configs, strict=True)
        ]

    def _compose_one(self, master: DictConfig, overrides: tuple[str, ...]) -> Config:
        if overrides not in self._configs:
            with _one_line_errors():
                self._configs[overrides] = to_config(self._load(master, overrides))
        return self._configs[overrides]

    def _load(self, master: DictConfig, overrides: tuple[str, ...]) -> DictConfig:
        """Compose; points that differ in plain values alone are composed once and changed (100 ms against 8)."""
        parsed = OverridesParser.create(config_loader=self._hydra.config_loader).parse_overrides(list(overrides))
        plain = {str(o.key_or_group): o for o in parsed if self._is_plain(o)}
        rest = [str(o.input_line) for o in parsed if str(o.key_or_group) not in plain]
        family = (tuple(master.hydra.overrides.hydra), tuple(rest), tuple(plain))
        if family not in self._siblings:
            composed = self._load_sweep_config(master, list(overrides))
            self._siblings[family] = _without_hydra(composed)
            return composed
        sibling = copy.deepcopy(self._siblings[family])
        for key, override in plain.items():
            OmegaConf.update(sibling, key, override.value())
        return sibling

    def _is_plain(self, override: Override) -> bool:
        """Whether an override sets one value that is there, so that it says all there is to say about it."""
        if override.is_add() or override.is_force_add() or override.is_delete() or override.package is not None:
            return False
        if override.is_hydra_override() or isinstance(override.value(), dict | list):
            return False
        return not self._is_group(str(override.key_or_group))

    def _is_group(self, key: str) -> bool:
        if key not in self._groups:
            loader = self._hydra.config_loader
            self._groups[key] = bool(loader.get_group_options(key, None, CONFIG_NAME, self._search_path))
        return self._groups[key]

    def multirun(self, overrides: Sequence[str]) -> Any:
        """Run Hydra's own multirun; what happens then is the configured launcher's business."""
        config = self.points(overrides)[0].config
        self.command = shlex.join(["workbench", "run", *self._options, *overrides])
        # Hydra writes its own record of the multirun there; a relative path would start at the working directory.
        record = Path(config.paths.outputs) / "studies" / config.study / "hydra"
        own = [f"hydra.sweep.dir='{record}'"]
        # Hydra's sweeper composes every point once more only to see whether that works; here it has.
        cast(Any, self._hydra.config_loader).load_sweep_config = _composed_already
        return self._hydra.multirun(
            CONFIG_NAME, _no_task, [*overrides, *self._search_path, *own], with_log_configuration=False
        )

    def workers(self, overrides: Sequence[str]) -> int | None:
        """Stages at a time, as the composed launcher says; None leaves it to the machine."""
        return self.master(overrides).hydra.launcher.get("workers")

    def submits(self, overrides: Sequence[str]) -> bool:
        """Whether the composed launcher submits to a cluster, rather than running here."""
        return str(self.master(overrides).hydra.launcher.get("_target_")).endswith(".SlurmLauncher")

    def waits(self, overrides: Sequence[str]) -> bool:
        """Whether the composed launcher comes back only when the study is done."""
        return not self.submits(overrides) or bool(self.master(overrides).hydra.launcher.get("wait"))


def _composed_already(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
    del sweep_overrides
    return master_config


def _no_task(config: DictConfig) -> None:
    raise ValueError("hydra/launcher must be one of the workbench's: local or slurm")


_current: Composer | None = None


def current_composer() -> Composer:
    """Give the composer that is entered; Hydra's plugin asks for it from inside a multirun."""
    assert _current is not None, "no composer is entered"
    return _current


@contextmanager
def composer(experiments: Path | None = None) -> Generator[Composer]:
    """Enter Hydra with the project's configs and, beside them, a user's folder of studies.

    Parameters
    ----------
    experiments
        A folder of study files, searched before the project's own.

    Raises
    ------
    ValueError
        The folder does not exist.
    """
    global _current
    register_schemas()
    logging.getLogger("hydra").setLevel(logging.ERROR)
    GlobalHydra.instance().clear()
    with tempfile.TemporaryDirectory() as scratch:
        search_path = [PROJECT_ROOT]
        if experiments is not None:
            search_path.insert(0, _as_group(experiments.expanduser().resolve(), Path(scratch)))
        with initialize_config_dir(str(CONFIG_DIR), job_name="workbench", version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            _current = Composer(hydra, search_path, [] if experiments is None else ["--experiments", str(experiments)])
            try:
                yield _current
            finally:
                _current = None


def _as_group(folder: Path, scratch: Path) -> Path:
    """Give a folder under which `folder` is found as the config group `experiments`."""
    if not folder.is_dir():
        raise ValueError(f"--experiments {folder}: no such folder")
    if folder.name == "experiments":
        return folder.parent
    (scratch / "experiments").symlink_to(folder, target_is_directory=True)
    return scratch


def _point_names(batch: Sequence[Sequence[str]]) -> list[str]:
    common = set(batch[0]).intersection(*batch[1:]) if batch else set[str]()
    return [",".join(o.lstrip("+") for o in overrides if o not in common) or "base" for overrides in batch]


def to_config(composed: DictConfig) -> Config:
    """Leave Hydra's world: a frozen, validated `Config`; relative outputs start at the project's root."""
    ours = _without_hydra(composed)
    values = cast(dict[str, Any], OmegaConf.to_container(ours, resolve=True, throw_on_missing=True))
    values["paths"] = {"outputs": str(PROJECT_ROOT / Path(values["paths"]["outputs"]).expanduser())}
    return apply_variant(from_dict(Config, values))


def _without_hydra(composed: DictConfig) -> DictConfig:
    ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    OmegaConf.set_struct(ours, True)
    return ours


@contextmanager
def _one_line_errors() -> Generator[None]:
    """Turn Hydra's and OmegaConf's errors into a `ValueError` of one line, the root cause last."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        parts: list[str] = []
        cause: BaseException | None = error
        while cause is not None:
            text = " ".join(line.strip() for line in str(cause).splitlines() if line.strip())
            if text and text not in parts:
                parts.append(text)
            cause = cause.__cause__
        raise ValueError("; ".join(parts)) from error


# ------------------------------------------------------------------------------- structured configs


@cache
def register_schemas() -> None:
    """Store the schemas where the defaults lists of `conf/` look for them, once a process."""
    store = ConfigStore.instance()
    store.store(name="base_config", node=_mutable(Config))
    for group, cls in _GROUPS.items():
        store.store(group=group, name=f"base_{group}", node=_mutable(cls))


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
        return typing.Optional[_mutable_type(next(a for a in arguments if a is not type(None)))]  # noqa: UP045
    if origin is list:
        return list[_mutable_type(arguments[0])]
    if origin is dict:
        return dict[str, _mutable_type(arguments[1])]
    return _mutable(kind) if dataclasses.is_dataclass(kind) else kind
