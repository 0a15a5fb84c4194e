"""The one module that uses Hydra: from overrides to frozen `Config`s.

Hydra composes mutable structured configs (`workbench.config.structured`) and refuses unknown keys; the frozen classes'
own checks run when `to_config` converts the result.
"""

from __future__ import annotations

import logging
import shlex
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast, get_args, get_origin

import yaml
from hydra import initialize_config_dir
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from workbench.config.errors import one_line
from workbench.config.kind_registry import plugin_folders
from workbench.config.launcher_settings import Launcher, read_launcher
from workbench.config.plain import Built, whole_number
from workbench.config.schema import Config, from_dict
from workbench.config.search import CONFIG_DIR, PROJECT_ROOT, quoted, search_folders, search_override
from workbench.config.siblings import Siblings
from workbench.config.structured import kind_of, register_schemas
from workbench.study.rules import apply_variant

CONFIG_NAME = "config"


@dataclass(frozen=True)
class ComposedPoint:
    """One sweep point as Hydra composed it."""

    name: str
    """The overrides in which it differs from the other points, as `model=m1,tokens=4000000`."""
    overrides: tuple[str, ...]
    """All overrides, whole numbers in digits."""
    config: Config
    """The composed config."""


class Composer:
    """Hydra with this project's configs, for as long as `composer()` is entered."""

    def __init__(self, hydra: Hydra, search_path: Sequence[Path], options: Sequence[str] = ()) -> None:
        self._hydra, self._options = hydra, options
        self._search_path = [search_override(search_path)]
        self._masters: dict[tuple[str, ...], DictConfig] = {}
        self._configs: dict[tuple[str, ...], Config] = {}
        self._firsts: dict[tuple[Any, ...], DictConfig] = {}
        self._siblings: dict[tuple[Any, ...], Siblings] = {}
        self._parser = OverridesParser.create(config_loader=hydra.config_loader)
        self._parsed: dict[str, Override] = {}
        self._digits: dict[str, str] = {}
        self._plain: dict[str, bool] = {}
        # Kept, because `multirun` replaces it.
        self._load_sweep_config = hydra.config_loader.load_sweep_config
        self.command = ""
        """The command that launches the study again; empty before `multirun`."""
        self._groups: dict[str, bool] = {}

    def master(self, overrides: Sequence[str]) -> DictConfig:
        """Hydra's config of a whole multirun, without sweep overrides."""
        key = tuple(overrides)
        if key not in self._masters:
            _refuse_search_path(overrides)
            _refuse_what_is_no_setting(overrides)
            loader = self._hydra.config_loader
            with _one_line_errors():
                arguments = [*overrides, *self._search_path]
                self._masters[key] = loader.load_configuration(CONFIG_NAME, arguments, RunMode.MULTIRUN)
        return self._masters[key]

    def launcher(self, overrides: Sequence[str]) -> Launcher:
        """Return the composed launcher.

        Raises
        ------
        ValueError
            The overrides do not compose, or one of Hydra's own settings is not supported.
        """
        return read_launcher(self.master(overrides))

    def points(self, overrides: Sequence[str]) -> list[ComposedPoint]:
        """Compose every point of the sweep that `overrides` define.

        Raises
        ------
        ValueError
            The overrides do not compose, a point's config is impossible, or one of Hydra's own settings is not
            supported.
        """
        self.launcher(overrides)
        master = self.master(overrides)
        params = cast(dict[str, Any], OmegaConf.to_container(master.hydra.sweeper.params or OmegaConf.create()))
        task = cast(list[str], OmegaConf.to_container(master.hydra.overrides.task))
        with _one_line_errors():
            arguments = self._parse([*(f"{key}={value}" for key, value in params.items()), *task])
            _refuse_two_values(arguments)
            for argument in arguments:
                self._refuse_list(argument)
            batches = BasicSweeper.split_arguments(arguments, None)
        return self.compose(master, batches[0])

    def compose(self, master: DictConfig, batch: Sequence[Sequence[str]]) -> list[ComposedPoint]:
        """Compose one batch of a multirun; `batch` has each point's overrides, and equal ones make one point."""
        points = list(dict.fromkeys(tuple(self._in_digits(overrides)) for overrides in batch))
        hydras = tuple(master.hydra.overrides.hydra)
        configs = [self._compose_one(master, overrides, hydras) for overrides in points]
        return [
            ComposedPoint(name, overrides, config)
            for name, overrides, config in zip(_point_names(points), points, configs, strict=True)
        ]

    def _refuse_list(self, override: Override) -> None:
        """Refuse a list where one value belongs: Hydra would take a group's last choice and drop the others."""
        key, value = str(override.key_or_group), override.value()
        if not isinstance(value, list) or not (self._is_group(key) or kind_of(key) in (int, float, str, bool)):
            return
        values = ",".join(str(item) for item in value)
        raise ValueError(
            f"{override.input_line}: a sweep is written with commas and without brackets, {key}={values} (in a study's file "
            f"{key}: {values} under hydra.sweeper.params)"
        )

    def _parse(self, overrides: Sequence[str]) -> list[Override]:
        for text in overrides:
            if text not in self._parsed:
                [self._parsed[text]] = self._parser.parse_overrides([text])
        return [self._parsed[text] for text in overrides]

    def _in_digits(self, overrides: Sequence[str]) -> list[str]:
        """Write whole numbers in digits, so that `tokens=1e6` and `tokens=1M` name the point `tokens=1000000`."""
        with _one_line_errors():
            for text, override in zip(overrides, self._parse(overrides), strict=True):
                if text not in self._digits:
                    self._digits[text] = _in_digits(override)
        return [self._digits[text] for text in overrides]

    def _compose_one(self, master: DictConfig, overrides: tuple[str, ...], hydras: tuple[str, ...]) -> Config:
        if overrides not in self._configs:
            with _one_line_errors():
                self._configs[overrides] = self._load(master, overrides, hydras)
        return self._configs[overrides]

    def _load(self, master: DictConfig, overrides: tuple[str, ...], hydras: tuple[str, ...]) -> Config:
        """Compose; points that differ only in plain values are composed once and changed (0.5 ms instead of 100)."""
        plain = [text for text in overrides if self._plainly(text)]
        rest = tuple(text for text in overrides if not self._plainly(text))
        settings = {str(o.key_or_group): o.value() for o in self._parse(plain)}
        family = (hydras, rest, tuple(settings))
        values = None
        if family in self._firsts:
            if family not in self._siblings:
                first, others = self._firsts[family], self._parse(rest)
                keys = [str(o.key_or_group) for o in others if not self._is_group(str(o.key_or_group))]
                self._siblings[family] = Siblings(first, tuple(settings), keys)
            values = self._siblings[family].values(settings)
        if values is not None:
            return _finish(values, self._siblings[family].built)
        composed = self._load_sweep_config(master, list(overrides))
        if family not in self._firsts:
            self._firsts[family] = _without_hydra(composed)
        return to_config(composed)

    def _plainly(self, text: str) -> bool:
        if text not in self._plain:
            self._plain[text] = self._is_plain(self._parse([text])[0])
        return self._plain[text]

    def _is_plain(self, override: Override) -> bool:
        """Whether an override sets one existing value and does nothing else."""
        if override.is_add() or override.is_force_add() or override.is_delete() or override.package is not None:
            return False
        if override.is_hydra_override() or isinstance(override.value(), dict | list):
            return False
        return not self._is_group(str(override.key_or_group))

    def _is_group(self, key: str) -> bool:
        if key not in self._groups:
            self._groups[key] = bool(self._repository.get_group_options(key, None))
        return self._groups[key]

    @cached_property
    def _repository(self) -> IConfigRepository:
        """Hydra's view of all folders that are searched; its `get_group_options` makes one for every key (20 ms)."""
        loader = cast(Any, self._hydra.config_loader)
        return loader._parse_overrides_and_create_caching_repo(CONFIG_NAME, self._search_path)[1]

    def multirun(self, overrides: Sequence[str]) -> Any:
        """Run Hydra's own multirun; the configured launcher does the rest."""
        config = self.points(overrides)[0].config
        self.command = shlex.join(["workbench", "run", *self._options, *overrides])
        # Hydra writes its own record of the multirun there; a relative path would be relative to the working directory.
        record = Path(config.paths.outputs) / "studies" / config.study / "hydra"
        own = [f"hydra.sweep.dir={quoted(str(record))}"]
        # Hydra's sweeper would compose every point again just to check that it works; here it already has.
        cast(Any, self._hydra.config_loader).load_sweep_config = _composed_already
        return self._hydra.multirun(
            CONFIG_NAME, _no_task, [*overrides, *self._search_path, *own], with_log_configuration=False
        )


def _composed_already(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
    del sweep_overrides
    return master_config


def _no_task(config: DictConfig) -> None:
    raise ValueError("hydra/launcher must be one of the workbench's own: local or slurm")


_current: Composer | None = None


def current_composer() -> Composer:
    """Return the entered composer; Hydra's plugin asks for it from inside a multirun."""
    assert _current is not None, "no composer is entered"
    return _current


@contextmanager
def composer(experiments: Path | None = None) -> Generator[Composer]:
    """Enter Hydra with the project's configs and, additionally, a user's folder of studies.

    Parameters
    ----------
    experiments
        A folder of study files, searched before the project's own; it may contain config groups too.

    Raises
    ------
    ValueError
        The folder does not exist, or a config group's file in it has the name of one of the project's.
    """
    global _current
    register_schemas()
    logging.getLogger("hydra").setLevel(logging.ERROR)
    GlobalHydra.instance().clear()
    with tempfile.TemporaryDirectory() as scratch:
        search_path = search_folders(experiments, Path(scratch))
        with initialize_config_dir(str(CONFIG_DIR), job_name="workbench", version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            _current = Composer(
                hydra,
                search_path,
                _options(experiments),
            )
            try:
                yield _current
            finally:
                _current = None


def _options(experiments: Path | None) -> list[str]:
    """Options that the command needs again when it is typed again."""
    options = [] if experiments is None else ["--experiments", str(experiments.expanduser().resolve())]
    return [*options, *(word for folder in plugin_folders() for word in ("--plugins", str(folder)))]


def _refuse_search_path(overrides: Sequence[str]) -> None:
    for override in overrides:
        if override.lstrip("+~").startswith("hydra.searchpath"):
            raise ValueError(f"{override}: name a folder with config groups of your own by --experiments DIR instead")


def _refuse_what_is_no_setting(overrides: Sequence[str]) -> None:
    """Refuse words without `=`, a sweep that a space has torn, and a study that is named by its file."""
    for override in overrides:
        key, equals, value = override.partition("=")
        if override.endswith(",") or (not equals and override.startswith(",")):
            raise ValueError(f"{override!r}: write a sweep without spaces, as in tokens=40960,81920")
        if not equals and not override.startswith("~"):
            raise ValueError(
                f"{override!r} is no setting (KEY=VALUE): with settings behind it, a study is given as "
                f"experiments={Path(override).stem}"
            )
        if key == "experiments" and (value.startswith("/") or value.endswith((".yaml", ".yml"))):
            folder = Path(value).parent if Path(value).parent != Path() else "DIR"
            raise ValueError(
                f"{override}: a study is named without its folder and ending, --experiments {folder} "
                f"experiments={Path(value).stem}"
            )


def _refuse_two_values(arguments: Sequence[Override]) -> None:
    """Refuse `++seed=5` together with an axis `seed`: the last would win, and every point would be named by the first.

    Of two equal keys the later takes the first's place.
    """
    first: dict[tuple[str, str | None], Override] = {}
    for override in arguments:
        other = first.setdefault((str(override.key_or_group), override.package), override)
        if other.get_key_element() != override.get_key_element():
            raise ValueError(f"{other.input_line} and {override.input_line} set the same value: leave one of them out")


def _in_digits(override: Override) -> str:
    """One override, with whole numbers (and lists of them) in digits."""
    key, value = str(override.key_or_group), override.value()
    kind, line = kind_of(key), str(override.input_line)
    if override.is_delete() or value is None or (isinstance(value, str) and "${" in value):
        return line
    if kind is int:
        return f"{override.get_key_element()}={whole_number(value, key)}"
    if get_origin(kind) is list and get_args(kind) == (int,) and isinstance(value, list):
        items = [str(whole_number(item, f"{key}[{i}]")) for i, item in enumerate(value)]
        return f"{override.get_key_element()}=[{','.join(items)}]"
    return line


def _point_names(batch: Sequence[Sequence[str]]) -> list[str]:
    common = set(batch[0]).intersection(*batch[1:]) if batch else set[str]()
    return [",".join(o.lstrip("+") for o in overrides if o not in common) or "base" for overrides in batch]


def to_config(composed: DictConfig) -> Config:
    """Convert to a frozen, validated `Config`; relative outputs are relative to the project's root."""
    ours = _without_hydra(composed)
    return _finish(cast(dict[str, Any], OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)))


def _finish(values: dict[str, Any], built: Built | None = None) -> Config:
    values = {**values, "paths": {"outputs": str(PROJECT_ROOT / Path(values["paths"]["outputs"]).expanduser())}}
    return apply_variant(from_dict(Config, values, as_written=True, built=built))


def _without_hydra(composed: DictConfig) -> DictConfig:
    ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    OmegaConf.set_struct(ours, True)
    return ours


@contextmanager
def _one_line_errors() -> Generator[None]:
    """Turn Hydra's and OmegaConf's errors into a `ValueError` of one line, the root cause last."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(one_line(error)) from error
