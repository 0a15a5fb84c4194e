"""What a study shows when it is done: table, crossings, figures, and the report page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.study.study_record import read_record

if TYPE_CHECKING:
    import pandas as pd

    from analysis.report.study_results import Results
    from workbench.forecast.study_facts import Facts
    from workbench.study.layout import Layout

SLOPE_STUDY = "token_scaling"
"""Study whose curves say what an ablation's differences are worth in training tokens, where MLflow has it."""


def show_results(facts: Facts, experiments: Path | None = None) -> bool:
    """Draw the figures, write the page, print the table, and say where everything is; or say why that cannot be.

    A report whose inputs have not changed is not drawn again, and what it said is printed.

    Parameters
    ----------
    facts
        The study.
    experiments
        The user's folder of studies, where one was given: the study's question may stand there.

    Returns
    -------
    bool
        Whether there was anything to show.
    """
    from analysis.load import load_study
    from analysis.unchanged import inputs_digest, read_unchanged, write_stamp
    from workbench.launch.console import command_by_name
    from workbench.tracking.connection import connect
    from workbench.tracking.mlflow import PublishError, default_uri
    from workbench.tracking.owner import refuse_foreign
    from workbench.tracking.rising_losses import rising_losses

    study, layout, tracking = facts.plan.study, facts.layout, facts.config.tracking
    uri = tracking.uri or default_uri(layout)
    try:
        with connect(uri, tracking.timeout_seconds, layout) as client:
            refuse_foreign(client, layout, study)
            frame = load_study(study, uri)
    except (PublishError, ValueError) as error:
        print(f"no table and no figures: {error}; after `workbench publish {study}`, `workbench report` draws them")
        return False
    if frame.empty:
        print(f"no table and no figures: {_why_empty(study, frame)}")
        return False
    shown = _Shown(
        facts,
        uri,
        frame,
        heldout=_heldout_sizes(facts),
        curves=_slopes(facts, frame, uri),
        question=study_question(layout, study, experiments),
        warnings=(*rising_losses(facts.plan, facts.layout), *_data_notes(facts)),
        data=data_records(facts, uri),
    )
    directory = layout.figures(study)
    digest = inputs_digest(frame, shown.inputs())
    text = read_unchanged(directory, digest)
    if text is None:
        results, files, text = _draw(shown)
        if not tracking.publish or _log(shown, results, files):
            write_stamp(directory, digest, files, text)
    print(f"\n{text}")
    print(f"MLflow: {command_by_name('ui', study, layout.root)}   (tracking URI {uri})")
    return True


def _why_empty(study: str, frame: pd.DataFrame) -> str:
    """Say in one line why MLflow holds no checkpoint of a study."""
    from analysis.failed import FAILED_POINTS, describe_failed, read_tag

    failed = describe_failed(*read_tag(frame.attrs.get(FAILED_POINTS)))
    reason = failed or "`workbench status` says how far it is"
    return f"study {study!r} has no published checkpoint: {reason}"


@dataclass(frozen=True)
class _Shown:
    """What a study's report is made from."""

    facts: Facts
    uri: str
    frame: pd.DataFrame
    heldout: Mapping[str, Mapping[str, int]]
    curves: tuple[dict[str, float], str, list[str]]
    question: str
    warnings: tuple[str, ...]
    data: dict[str, Mapping[str, Any]]

    def inputs(self) -> dict[str, object]:
        """Everything but the frame, as plain values."""
        points = {point.name: point.chain[-1][0] for point in self.facts.plan.points}
        return {
            "uri": self.uri,
            "heldout": self.heldout,
            "curves": self.curves,
            "question": self.question,
            "warnings": self.warnings,
            "data": self.data,
            "points": points,
            "attributes": dict(self.frame.attrs),
            "sources": list(self.facts.config.data.sources),
            "publish": self.facts.config.tracking.publish,
            "code": Path(__file__).read_text(encoding="utf-8"),
        }


def _draw(shown: _Shown) -> tuple[Results, list[Path], str]:
    """Write figures, fits, tables and page; give the files, and the table and lines to print."""
    from analysis.report import analyse_study, compression_rows, format_table, page_of, summary_table
    from analysis.report.data_page import add_data
    from analysis.report.study_kinds import is_plain

    frame, layout, study = shown.frame, shown.facts.layout, shown.facts.plan.study
    compressors = compression_rows(shown.heldout)
    lines = [format_table(summary_table(frame, compressors))]
    if is_plain(frame):
        lines += _crossings(shown.facts, shown.uri, set(frame.loc[frame["value"].notna(), "metric"]))
    lines += _missing(shown.facts, set(frame.loc[frame["annealed"], "stage"]))
    curves, source, reason = shown.curves
    results = analyse_study(frame, curves=curves, curves_from=source)
    results.notes.extend(reason)
    results.warnings.extend([*_advice(frame), *shown.warnings])
    add_data(results, shown.data)
    page = layout.figures(study) / "report.html"
    files = results.save(layout.figures(study), layout.fits(study))
    write_page(page, page_of(results, frame, baselines=compressors, question=shown.question))
    return results, [*files, page], "\n".join([*lines, *shown.warnings, *results.notes, *_files(files, page)])


def show_reference(study: str, uri: str, directory: Path) -> None:
    """Draw the figures of results that were imported, and write their page."""
    from analysis.load import load_study
    from analysis.report import analyse_study, page_of

    frame = load_study(study, uri)
    results = analyse_study(frame)
    page = directory / "report.html"
    files = results.save(directory)
    write_page(page, page_of(results, frame))
    print("\n".join([*results.notes, *_files(files, page)]))


def write_page(page: Path, text: str) -> None:
    """Write a report's page in the encoding that it declares, whatever the machine's is."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")


def _files(files: list[Path], page: Path) -> list[str]:
    """Say how many files lie where, and the page's name."""
    folders = dict.fromkeys(path.parent for path in files)
    counts = [f"{sum(path.parent == folder for path in files)} files in {folder}" for folder in folders]
    return [*counts, f"report: {page}"]


def _slopes(facts: Facts, frame: pd.DataFrame, uri: str) -> tuple[dict[str, float], str, list[str]]:
    """Loss against log tokens near an ablation's budget, where that is from, and why there is none.

    Taken from the study of token scaling, where it has a model of the baseline's size.
    """
    if not any("variant=" in point.name for point in facts.plan.points):
        return {}, "", []
    from analysis.load import load_study
    from analysis.report.study_kinds import baseline_runs, is_ablation, slopes_near
    from analysis.style import count_label

    if not is_ablation(frame):
        return {}, "", []
    try:
        slopes = slopes_near(load_study(SLOPE_STUDY, uri), frame)
        size = float(baseline_runs(frame)["params_non_embedding"].iloc[0])
        return slopes, f"{SLOPE_STUDY}, N = {count_label(size)}", []
    except ValueError as error:
        return {}, "", [f"Differences are not said in training tokens: {error}"]


def _log(shown: _Shown, results: Results, files: list[Path]) -> bool:
    """Send the report to MLflow; whether that worked."""
    from workbench.tracking.mlflow import PublishError, log_figures

    study, tracking = shown.facts.plan.study, shown.facts.config.tracking
    try:
        about = _description(shown.question or study, results)
        log_figures(shown.facts.layout, study, files, tracking.uri, tracking.timeout_seconds, description=about)
    except PublishError as error:
        print(f"figures not published: {error}")
        return False
    return True


def _description(heading: str, results: Results) -> str:
    """Markdown for the study's page in MLflow."""
    lines = [heading, "", "`report.html` among the artifacts shows figures, fits and tables."]
    lines += [f"- {one.title}: {line}" for one in results.fits for line in one.fit.describe().splitlines()[:3]]
    lines += [f"- missing: {note}" for note in results.notes]
    return "\n".join(lines)


def study_question(layout: Layout, study: str, experiments: Path | None = None) -> str:
    """Heading of a study's text, which is its question; empty where there is none.

    Looked for in `experiments`, in the folder that the study's latest launch was given, and in the project's own.
    """
    from workbench.config.compose import PROJECT_ROOT

    folders = (experiments, _launched_with(layout, study), PROJECT_ROOT / "experiments")
    texts = (folder.expanduser() / f"{study}.md" for folder in folders if folder is not None)
    for path in texts:
        if path.exists():
            return next(iter(path.read_text(encoding="utf-8").splitlines()), "").lstrip("# ")
    return ""


def _launched_with(layout: Layout, study: str) -> Path | None:
    """Folder after `--experiments` in the recorded command; None where there is no such record."""
    try:
        words = shlex.split(read_record(layout, study).get("command", ""))
    except ValueError:
        return None
    return next((Path(folder) for option, folder in pairwise(words) if option == "--experiments"), None)


def _missing(facts: Facts, trained: set[str]) -> list[str]:
    """Name the points that the table lacks."""
    ends = {point.name: point.chain[-1][0] for point in facts.plan.points}
    own = {name: end for name, end in ends.items() if facts.plan.nodes[end].stage.kind == "pretrain"}
    return [f"not trained: {name}" for name, end in own.items() if end not in trained]


def _crossings(facts: Facts, uri: str, evaluated: set[str]) -> list[str]:
    """Say which sizes cross: each better than the other at some budget, beyond two standard errors."""
    from analysis.load import load_documents
    from analysis.paired import find_crossings

    metrics = {source: f"heldout/{source}/bits_per_byte" for source in facts.config.data.sources}
    return [
        f"{source}: {crossing}"
        for source, metric in metrics.items()
        if metric in evaluated
        for crossing in find_crossings(load_documents(facts.plan.study, metric, uri))
    ]


def _advice(frame: pd.DataFrame) -> list[str]:
    """Lines on what to do about the points that failed."""
    from analysis.failed import FAILED_POINTS, read_tag
    from workbench.study.causes import advise

    failed, _ = read_tag(frame.attrs.get(FAILED_POINTS))
    return advise((f"{point.model} {point.point}".strip(), point.cause) for point in failed)


def _data_notes(facts: Facts) -> list[str]:
    """Lines on data whose scores rest on few held-out documents."""
    from workbench.data.store import open_prepared
    from workbench.data.store_summary import heldout_notes
    from workbench.forecast.study_facts import stores

    folders = [facts.layout.data(fingerprint) for fingerprint in stores(facts.plan)]
    return [note for f in folders if (f / "manifest.json").exists() for note in heldout_notes(open_prepared(f))]


def data_records(facts: Facts, uri: str) -> dict[str, Mapping[str, Any]]:
    """Gather the records of a study's data, by fingerprint: of stores that are here, else as an earlier report stored them."""
    from analysis.data_records import load_data_records
    from workbench.data.data_record import make_record
    from workbench.forecast.study_facts import stores

    folders = {fingerprint: facts.layout.data(fingerprint) for fingerprint in stores(facts.plan)}
    here = {name: make_record(folder) for name, folder in folders.items() if (folder / "manifest.json").exists()}
    here = {name: record | _lineage(facts, name) for name, record in here.items()}
    stored = load_data_records(facts.plan.study, uri) if len(here) < len(folders) else {}
    return {name: record for name in folders if (record := here.get(name) or stored.get(name))}


def _lineage(facts: Facts, fingerprint: str) -> dict[str, Any]:
    """Give the stages that read a corpus, with their points, and the files it was made of; nothing of other data."""
    from workbench.kinds.corpus.source_files import summarize_files

    files = summarize_files(facts.layout, fingerprint)
    if files is None:
        return {}
    corpus, nodes = facts.plan.corpora.get(fingerprint), facts.plan.nodes
    read_by = [
        {"stage": i, "of": nodes[i].stage.label, "points": list(nodes[i].points)}
        for i in (() if corpus is None else corpus.stages)
    ]
    return {"inputs": files, "read_by": read_by}


def _heldout_sizes(facts: Facts) -> dict[str, dict[str, int]]:
    from workbench.data.store import heldout_sizes, open_prepared

    fingerprint = next(iter(facts.plan.nodes.values())).stage.data_fingerprint
    if not (facts.layout.data(fingerprint) / "manifest.json").exists():
        return {}
    return heldout_sizes(open_prepared(facts.layout.data(fingerprint)))
