"""What a study shows when it is done: table, crossings, figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.launch.planning import Facts


def show_results(facts: Facts) -> None:
    """Draw the figures, print the table, and say where everything is; or say why that cannot be."""
    from analysis.load import load_study
    from analysis.report import compression_rows, draw_study, format_table, summary_table
    from workbench.tracking.connection import connect
    from workbench.tracking.mlflow import PublishError, default_uri, log_figures

    study, layout, tracking = facts.plan.study, facts.layout, facts.config.tracking
    uri = tracking.uri or default_uri(layout)
    try:
        with connect(uri, tracking.timeout_seconds, layout):
            frame = load_study(study, uri)
    except (PublishError, ValueError) as error:
        print(f"no table and no figures: {error}; after `workbench publish {study}`, `workbench report` draws them")
        return
    print(f"\n{format_table(summary_table(frame, compression_rows(_heldout_sizes(facts))))}")
    _print_crossings(facts, uri, set(frame.loc[frame["value"].notna(), "metric"]))
    _print_missing(facts, set(frame.loc[frame["annealed"], "stage"]))
    files = draw_study(frame, layout.figures(study), layout.fits(study))
    for path in files:
        print(path)
    if tracking.publish:
        try:
            log_figures(layout, study, files, tracking.uri, tracking.timeout_seconds)
        except PublishError as error:
            print(f"figures not published: {error}")
    print(f"MLflow: workbench ui   (tracking URI {uri})")


def _print_missing(facts: Facts, trained: set[str]) -> None:
    """Name the points that the table lacks."""
    for point in facts.plan.points:
        if point.chain[-1][0] not in trained:
            print(f"not trained: {point.name}")


def _print_crossings(facts: Facts, uri: str, evaluated: set[str]) -> None:
    """Say which sizes cross: each better than the other at some budget, beyond two standard errors."""
    from analysis.load import load_documents
    from analysis.paired import find_crossings

    for source in facts.config.data.sources:
        metric = f"heldout/{source}/bits_per_byte"
        if metric in evaluated:
            for crossing in find_crossings(load_documents(facts.plan.study, metric, uri)):
                print(f"{source}: {crossing}")


def _heldout_sizes(facts: Facts) -> dict[str, dict[str, int]]:
    from workbench.data.store import heldout_sizes, open_prepared

    fingerprint = next(iter(facts.plan.nodes.values())).stage.stream.data_fingerprint
    if not (facts.layout.data(fingerprint) / "manifest.json").exists():
        return {}
    return heldout_sizes(open_prepared(facts.layout.data(fingerprint)))
