"""What is known of the data behind a study: one record a prepared store, as its report stored them with the study's run.

A record is what `make_record` of `workbench/data/data_record.py` gives; here it is read and put into tables. What a store does
not have is None in it, and stays missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.experiment_store import open_study

Record = Mapping[str, Any]
SUFFIX = ".data.json"
"""End of the name of a record's file, `<fingerprint>.data.json`."""
FOLDER = "data"
"""Folder of the records among the artifacts of a study's own run."""


def load_data_records(study: str, tracking_uri: str | None = None) -> dict[str, Record]:
    """Read the records that the latest report of a study stored in MLflow, by fingerprint; empty where there is none.

    Parameters
    ----------
    study
        Name of the study.
    tracking_uri
        As in `analysis.load.load_study`.

    Raises
    ------
    ValueError
        There is no such study, or no store.
    """
    client, experiment = open_study(study, tracking_uri)
    runs = client.search_runs([experiment], "tags.kind = 'study'", max_results=1)
    if not runs:
        return {}
    run_id = runs[0].info.run_id
    paths = [file.path for file in client.list_artifacts(run_id, FOLDER) if file.path.endswith(SUFFIX)]
    records = [json.loads(Path(client.download_artifacts(run_id, path)).read_text(encoding="utf-8")) for path in paths]
    return {record["fingerprint"]: record for record in records}


def source_table(record: Record) -> pd.DataFrame:
    """Tabulate the sources: what they are, documents, tokens, bytes, and what is held out."""
    rows = [
        {
            "source": name,
            "read from": _origin(facts.get("config") or {}),
            "documents": facts["documents"],
            "tokens": facts["tokens"],
            "bytes": facts["bytes"],
            "bytes a token": round(facts["bytes"] / facts["tokens"], 2) if facts["bytes"] and facts["tokens"] else None,
            "held-out documents": facts.get("heldout_documents"),
            "held-out bytes": facts.get("heldout_bytes"),
        }
        for name, facts in record["sources"].items()
    ]
    return pd.DataFrame(rows)


def _origin(config: Mapping[str, Any]) -> str:
    path, kind = config.get("path"), str(config.get("kind") or "")
    revision = f" at {config['revision'][:12]}" if config.get("revision") else ""
    return f"{kind} {path}{revision}" if path else kind


def input_table(record: Record) -> pd.DataFrame | None:
    """Tabulate what each source of a corpus was read from: files, bytes, and a hash of all; None where nobody wrote it down."""
    inputs: Mapping[str, Mapping[str, Any]] | None = record.get("inputs")
    if not inputs:
        return None
    rows = [
        {
            "source": name,
            "read from": _origin(facts),
            "files": facts["count"] or None,
            "bytes": facts["bytes"] or None,
            "SHA-256 of the files' hashes": facts["sha256"],
        }
        for name, facts in inputs.items()
    ]
    return pd.DataFrame(rows)


def reader_table(record: Record) -> pd.DataFrame | None:
    """Tabulate the stages that read a corpus, with the points they are for; None where that is not known."""
    readers = record.get("read_by")
    if not readers:
        return None
    return pd.DataFrame([{**one, "points": _some(one["points"])} for one in readers])


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more


def removed_table(record: Record) -> pd.DataFrame:
    """Tabulate documents read, kept and dropped by cause, of each source; causes in the record's order."""
    rows: list[dict[str, Any]] = []
    cuts = {name: _cut_counts(facts.get("cut")) for name, facts in record["sources"].items()}
    known = dict.fromkeys(cause for counts in cuts.values() if counts is not None for cause in counts)
    for name, facts in record["sources"].items():
        row = {"source": name, "read": facts["read"], "kept": facts.get("kept", facts["documents"])}
        row |= {label: facts["dropped"].get(cause, 0) for cause, label in record["labels"].items()}
        counts = cuts[name]
        rows.append(row | {cause: None if counts is None else counts.get(cause, 0) for cause in known})
    return pd.DataFrame(rows)


def rule_table(record: Record) -> pd.DataFrame | None:
    """Tabulate by what the documents of each source were chosen: its `where`, and thresholds of quality; None: by neither."""
    configs = {name: facts.get("config") or {} for name, facts in record["sources"].items()}
    rows = [
        {"source": name, "setting": setting, "kept if": rule}
        for name, config in configs.items()
        for setting, rule in [("where", config.get("where")), *_thresholds(config.get("quality") or {})]
        if rule
    ]
    return pd.DataFrame(rows) if rows else None


def _thresholds(quality: Mapping[str, Mapping[str, Any] | None]) -> list[tuple[str, str]]:
    """Name the families of rules of quality with what each was set to; a rule that is null was not applied."""
    return [
        (f"quality.{family}", ", ".join(f"{name}: {value}" for name, value in rules.items() if value is not None))
        for family, rules in quality.items()
        if rules
    ]


def _cut_counts(cut: int | Mapping[str, int] | None) -> dict[str, int] | None:
    """Count documents that stay without a part of them, by cause; None where nobody counted them."""
    if cut is None or isinstance(cut, int):
        return None if cut is None else {"cut: held-out text": cut}
    return {f"cut: {cause.replace('_', ' ')}": count for cause, count in cut.items()}


def overlap_table(record: Record) -> pd.DataFrame | None:
    """Tabulate the overlap with tasks: their documents, and training documents that held their text; None: not checked."""
    found = record.get("contamination")
    if not found:
        return None
    rows: list[dict[str, Any]] = []
    for task, facts in sorted(found["tasks"].items()):
        checkable, dirty = facts.get("checkable"), facts.get("dirty")
        count = None if dirty is None else len(dirty)
        share = f"{count / checkable:.1%}" if checkable and count is not None else None
        row = {
            "task": task,
            "documents": facts.get("documents"),
            "checkable": checkable,
            "dirty": count,
            "share": share,
        }
        row["n-grams found"] = facts.get("passages")
        rows.append(row | {f"training, {done}": n for done, n in (facts.get("training_documents") or {}).items()})
    return pd.DataFrame(rows)


def packing_table(record: Record) -> pd.DataFrame | None:
    """Tabulate the sequences that documents were packed into, by context and source; None: no documents were packed."""
    rows = [
        {
            "context": packing["context_tokens"],
            "source": name,
            "documents": facts["documents"],
            "packed sequences": facts["sequences"],
            "padding": f"{facts['padded'] / (facts['padded'] + facts['tokens']):.3%}",
            "documents cut": f"{facts['cut'] / facts['documents']:.2%}",
            "cut if concatenated": f"{facts['cut_in_windows'] / facts['documents']:.2%}",
        }
        for packing in record.get("packing") or ()
        for name, facts in packing["sources"].items()
    ]
    return pd.DataFrame(rows) if rows else None


def heldout_table(record: Record) -> pd.DataFrame | None:
    """Tabulate the held-out bytes that stand in training text, by source; None: not measured."""
    left, before = record.get("overlap_left"), record.get("overlap_before") or {}
    if not left:
        return None
    rows = [
        {
            "source": name,
            "before cutting": f"{before[name]['share']:.2%}" if name in before else None,
            "left": f"{facts['share']:.2%}",
            "worst document": f"{facts['worst_document']:.1%}",
        }
        for name, facts in left.items()
    ]
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


def language_table(record: Record) -> pd.DataFrame | None:
    """Tabulate documents by language, by a field that says it or in a sample; None: not counted."""
    counted = {name: facts["languages"] for name, facts in record["sources"].items() if facts.get("languages")}
    if not counted:
        return None
    rows = [
        {"source": name, "language": language, "documents": documents, "share": f"{documents / sum(by.values()):.1%}"}
        for name, by in counted.items()
        for language, documents in sorted(by.items(), key=lambda item: (-item[1], item[0]))
    ]
    return pd.DataFrame(rows)
