"""A study's results: its figures, fits and tables, and what was left out of them and why."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import textwrap
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.data_records import SUFFIX
from analysis.figures.points import Drawing
from analysis.figures.save import save_figure
from analysis.fitting import Fit
from analysis.frames import EXCLUDED
from analysis.report.page import Drawn

MANIFEST = "report.files.json"
"""File beside a report's output that lists it."""
BOOTSTRAP = 200
"""Replicates of a report's fits: a tenth of a second for twenty points."""
_NOTE_WIDTH = 110
"""Characters of a line under a figure."""
DATA = "Data"
"""Part of the page on the data."""
FIGURE_FILES = ("svg", "png", "csv", "lineage.json")
"""File types that `save_figure` writes."""


def file_name(prefix: str, metric: str) -> str:
    """File name of one metric's figure: `chinchilla-heldout-prose-bits_per_byte`."""
    return "-".join([prefix, *metric.split("/")])


@dataclass(frozen=True)
class NamedFit:
    """One fit of a report."""

    name: str
    """File name without its extension."""
    title: str
    """Heading."""
    fit: Fit
    """The record."""


@dataclass(frozen=True)
class NamedTable:
    """One table of a report."""

    name: str
    """File name without its extension."""
    title: str
    """Heading."""
    table: pd.DataFrame
    """Its rows."""
    note: str = ""
    """What a reader must know."""


@dataclass
class Results:
    """Figures, fits and tables of one study, collected one by one.

    What a study's points do not allow (`ValueError`) is noted with its reason, and the rest is still made.
    """

    study: str
    """Name of the study."""
    drawn: list[Drawn] = field(default_factory=list[Drawn])
    """Figures, in order."""
    fits: list[NamedFit] = field(default_factory=list[NamedFit])
    """Fits, in order."""
    tables: list[NamedTable] = field(default_factory=list[NamedTable])
    """Tables, in order."""
    notes: list[str] = field(default_factory=list[str])
    """What is missing, and why."""
    warnings: list[str] = field(default_factory=list[str])
    """What a reader of the scores must mind."""
    data: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    """Records of the prepared data, as `analysis.data_records.load_data_records` gives them."""

    def draw(
        self, name: str, title: str, caption: str, make: Callable[[], Drawing], *, section: str = "Figures"
    ) -> None:
        """Add a figure, or the reason there is none."""
        try:
            figure, points = make()
        except ValueError as error:
            self.notes.append(f"{title} is not drawn: {error}")
            return
        self.drawn.append(Drawn(name, title, caption, figure, points, section))

    def fit(self, name: str, title: str, make: Callable[[], Fit]) -> Fit | None:
        """Add a fit, or the reason there is none: a record without parameters is a reason too."""
        try:
            fit = make()
        except ValueError as error:
            self.notes.append(f"{title} is not fitted: {error}")
            return None
        if not fit.identifiable:
            self.notes.append(f"{title} is not fitted: {'; '.join(fit.flags)}")
            return None
        self.fits.append(NamedFit(name, title, fit))
        return fit

    def table(self, name: str, title: str, make: Callable[[], pd.DataFrame], note: str = "") -> pd.DataFrame | None:
        """Add a table with what it left out, or the reason there is none."""
        try:
            table = make()
        except ValueError as error:
            self.notes.append(f"{title} is not made: {error}")
            return None
        left_out = table.attrs.get(EXCLUDED, ())
        words = [note] if note else []
        if left_out:
            words.append(f"Left out: {'; '.join(left_out)}.")
        self.tables.append(NamedTable(name, title, table, " ".join(words)))
        return table

    def name_absent(self, note: str) -> None:
        """Put a line under every figure, and into its caption, that names the points it lacks; empty puts none."""
        if not note:
            return
        text = "\n".join(textwrap.wrap(note, _NOTE_WIDTH))
        for position, one in enumerate(self.drawn):
            if one.section == DATA:  # it has no points of the study
                continue
            _write_under(one.figure, text)
            self.drawn[position] = dataclasses.replace(one, caption=f"{one.caption} {note}.")

    def save(self, directory: Path, fit_directory: Path | None = None) -> list[Path]:
        """Write figures (SVG, PNG, CSV, lineage), tables (CSV), records of data and fits (JSON), and return the files.

        Files that an earlier report wrote there and this one does not are removed: `MANIFEST` in each folder lists
        them. Other files stay.

        Parameters
        ----------
        directory
            Of figures and tables, `outputs/figures/<study>`.
        fit_directory
            Of fits, `outputs/fits/<study>`; None writes none.
        """
        records = {f"{one['fingerprint']}{SUFFIX}": one for one in self.data}
        figures = [f"{one.name}.{kind}" for one in self.drawn for kind in FIGURE_FILES]
        with _replacing(directory, [*figures, *records, *(f"{one.name}.table.csv" for one in self.tables)]):
            written = [path for one in self.drawn for path in save_figure(one.figure, one.points, directory, one.name)]
            for one in self.tables:
                path = directory / f"{one.name}.table.csv"
                one.table.to_csv(path, index=False)
                written.append(path)
            for name, record in records.items():
                path = directory / name
                path.write_text(json.dumps(record, indent=1), encoding="utf-8")
                written.append(path)
        if fit_directory is not None:
            with _replacing(fit_directory, [f"{one.name}.json" for one in self.fits]):
                written += [one.fit.save(fit_directory / f"{one.name}.json") for one in self.fits]
        return written


def _write_under(figure: Figure, text: str) -> None:
    """Put a line at a figure's foot; where its legend stands there, into the legend's text, which has room kept for it."""
    if figure.legends:
        legend = figure.legends[0]
        legend.set_title("\n".join(part for part in (legend.get_title().get_text(), text) if part))
    else:
        figure.supxlabel(text, x=0.01, ha="left", fontsize="x-small")


@contextlib.contextmanager
def _replacing(directory: Path, names: list[str]) -> Generator[None]:
    """Let a report write its files into a folder, and remove those of an earlier one that it does not write."""
    manifest = directory / MANIFEST
    earlier = _read_manifest(manifest)
    if not names and not earlier:
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    # A report that is killed leaves a manifest of both old and new files.
    manifest.write_text(json.dumps({"files": sorted({*earlier, *names})}, indent=1), encoding="utf-8")
    yield
    for name in earlier - set(names):
        (directory / name).unlink(missing_ok=True)
    manifest.write_text(json.dumps({"files": sorted(names)}, indent=1), encoding="utf-8")


def _read_manifest(manifest: Path) -> set[str]:
    """Files that an earlier report listed in its manifest; none if the manifest is damaged."""
    try:
        files: list[str] = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        return {name for name in files if Path(name).name == name}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
