"""Hydra's own settings in a composed config: the launcher and its settings; everything else is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from workbench.config.plain import check_at_least, whole_number

LAUNCHERS = {"LocalLauncher": "local", "SlurmLauncher": "slurm"}
"""Kinds of launchers by their classes' names in `hydra_plugins.workbench_launcher.launcher`."""
_SETTINGS = {"local": ("workers", "use_idle_cores"), "slurm": ("wait",)}


@dataclass(frozen=True)
class Launcher:
    """The composed launcher."""

    kind: str
    """`local` trains on this machine, `slurm` submits to a cluster."""
    workers: int | None = None
    """Stages that run at a time on this machine; None chooses by its cores."""
    use_idle_cores: bool = False
    """Whether stages get more processes where cores of this machine would be idle and a measurement says that it pays."""
    wait: bool = False
    """Whether to wait until no job of the study is left."""

    @property
    def submits(self) -> bool:
        """Whether it submits to a cluster, rather than training here."""
        return self.kind == "slurm"

    @property
    def waits(self) -> bool:
        """Whether it returns only when the study is done."""
        return not self.submits or self.wait


def read_launcher(master: DictConfig) -> Launcher:
    """Return the launcher of a multirun's config, after checking Hydra's other settings.

    Raises
    ------
    ValueError
        The launcher is not one of the workbench's, it has no such setting, a value is wrong, or one of Hydra's settings
        does not suit a study.
    """
    _check_mode(master)
    _check_sweeper(cast(dict[str, Any], OmegaConf.to_container(master.hydra.sweeper)))
    values = cast(dict[str, Any], OmegaConf.to_container(master.hydra.launcher))
    target = str(values.pop("_target_", None))
    kind = LAUNCHERS.get(target.rpartition(".")[2])
    if kind is None:
        raise ValueError(f"hydra/launcher is {target}: choose hydra/launcher=local or hydra/launcher=slurm")
    for name in values:
        if name not in _SETTINGS[kind]:
            raise ValueError(
                f"hydra.launcher.{name}={values[name]!r} is not a setting of the launcher {kind}, which has "
                f"{', '.join(_SETTINGS[kind])}: remove it from the study's file, or add ~hydra.launcher.{name}"
            )
    return Launcher(
        kind,
        _workers(values.get("workers")),
        use_idle_cores=_truth("use_idle_cores", values.get("use_idle_cores", False)),
        wait=_truth("wait", values.get("wait", False)),
    )


def _check_mode(master: DictConfig) -> None:
    mode = master.hydra.mode
    if getattr(mode, "name", mode) not in (None, "MULTIRUN"):
        raise ValueError(
            f"hydra.mode={getattr(mode, 'name', mode)}: a study is always a MULTIRUN; leave this setting out"
        )


def _check_sweeper(sweeper: dict[str, Any]) -> None:
    """Refuse settings that would not plan a study as one grid."""
    if not str(sweeper.get("_target_")).endswith(".BasicSweeper"):
        raise ValueError(f"hydra/sweeper is {sweeper.get('_target_')}: a study is a grid, so leave hydra/sweeper=basic")
    if sweeper.get("max_batch_size") is not None:
        raise ValueError(
            f"hydra.sweeper.max_batch_size={sweeper['max_batch_size']}: a study is planned as one graph; leave it null "
            "(hydra.launcher.workers sets how many stages run at a time)"
        )
    params: dict[str, Any] = sweeper.get("params") or {}
    for key, value in params.items():
        if isinstance(value, dict) and value:
            flat = f"{key}.{next(iter(cast(dict[str, Any], value)))}"
            raise ValueError(f"hydra.sweeper.params.{key}={value!r}: write the full path of an axis, as {flat}: 1,2")


def _workers(value: Any) -> int | None:
    if value is None:
        return None
    workers = whole_number(value, "hydra.launcher.workers")
    check_at_least("hydra.launcher.workers", workers, 1)
    return workers


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"hydra.launcher.{name}={value!r} must be true or false")
    return value
