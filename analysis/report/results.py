"""What a study comes to: its figures, fits and tables, and what was left out of them and why."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# (pandas and matplotlib are typed in part)
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from analysis.figures.points import Drawing
from analysis.figures.save import save_figure
from analysis.fit import Fit
from analysis.frames import EXCLUDED
from analysis.report.page import Drawn


@dataclass(frozen=True)
class NamedFit:
    """One fit of a report."""

    name: str
    """File name without its kind."""
    title: str
    """Heading."""
    fit: Fit
    """The record."""


@dataclass(frozen=True)
class NamedTable:
    """One table of a report."""

    name: str
    """File name without its kind."""
    title: str
    """Heading."""
    table: pd.DataFrame
    """Its rows."""
    note: str = ""
    """What a reader must know."""


@dataclass
class Results:
    """Figures, fits and tables of one study, gathered one by one.

    What a study's points do not allow (`ValueError`) is noted with its reason and keeps nothing else from being made.
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

    def draw(self, name: str, title: str, caption: str, make: Callable[[], Drawing]) -> None:
        """Add a figure, or the reason why there is none."""
        try:
            figure, points = make()
        except ValueError as error:
            self.notes.append(f"{title} is not drawn: {error}")
            return
        self.drawn.append(Drawn(name, title, caption, figure, points))

    def fit(self, name: str, title: str, make: Callable[[], Fit]) -> Fit | None:
        """Add a fit, or the reason why there is none: a record without numbers is a reason, too."""
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
        """Add a table with what it says it left out, or the reason why there is none."""
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

    def save(self, directory: Path, fit_directory: Path | None = None) -> list[Path]:
        """Write figures (SVG, PNG, CSV, lineage), tables (CSV) and fits (JSON), and give the files.

        Parameters
        ----------
        directory
            Of figures and tables, `outputs/figures/<study>`.
        fit_directory
            Of fits, `outputs/fits/<study>`; None writes none.
        """
        written = [path for one in self.drawn for path in save_figure(one.figure, one.points, directory, one.name)]
        for one in self.tables:
            directory.mkdir(parents=True, exist_ok=True)
            path = directory / f"{one.name}.table.csv"
            one.table.to_csv(path, index=False)
            written.append(path)
        if fit_directory is not None:
            written += [one.fit.save(fit_directory / f"{one.name}.json") for one in self.fits]
        return written
