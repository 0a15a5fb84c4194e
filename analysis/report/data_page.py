"""The part of a report on its data: sources, what was removed and why, duplicates, lengths, overlap with tasks, held-out text.

Whatever a store does not have is said to be not measured, which is something else than none.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.data_records import (
    Record,
    heldout_table,
    input_table,
    language_table,
    overlap_table,
    packing_table,
    reader_table,
    removed_table,
    rule_table,
    source_table,
)
from analysis.figures.lengths import lengths_figure
from analysis.report.page import Drawn, figure_block, table_block, text_block
from analysis.report.study_results import DATA, Results

_EXAMPLES_A_CAUSE, _EXAMPLE_CHARACTERS = 3, 500
_PAIRS = 5
_EXACT = ("duplicate", "exact_duplicate")
"""Causes of documents that are equal to another, in stores made in one pass and in corpora."""


def add_data(results: Results, records: Mapping[str, Record]) -> None:
    """Add the records of the data behind a study to its report, with a figure of lengths where these were measured."""
    for fingerprint, record in records.items():
        results.data.append(record)
        if not record.get("lengths"):
            continue
        results.draw(
            f"lengths-{fingerprint}",
            "Lengths of documents",
            "Share of each source's documents by their length.",
            lambda record=record: lengths_figure(record, results.study),
            section=DATA,
        )


def data_blocks(record: Record, drawn: Sequence[Drawn]) -> list[str]:
    """Describe one prepared store.

    Parameters
    ----------
    record
        As `analysis.data_records.load_data_records` gives it.
    drawn
        Figures of the report.
    """
    figures = [figure_block(one) for one in drawn if one.name == f"lengths-{record['fingerprint']}"]
    tokens = sum(facts["tokens"] for facts in record["sources"].values())
    lead = f"{tokens:,} tokens of a vocabulary of {record['vocab_size']:,}, {len(record['sources'])} sources (format {record['format']})."
    name = record.get("name")
    title = f"{name} ({record['fingerprint']})" if name else record["fingerprint"]
    return [
        f"<h3 id='data-{html.escape(record['fingerprint'])}'>{html.escape(title)}</h3>",
        text_block(lead),
        _table(source_table(record), "Sources"),
        *_rules(record),
        _table(removed_table(record), "Documents read, kept, and removed by cause"),
        *_duplicates(record),
        *(figures or [_not_measured("Lengths of documents")]),
        *_packing(record),
        *_overlap(record),
        *_languages(record),
        *_heldout_left(record),
        *_heldout_examples(record),
        *_removed_examples(record),
        *_lineage(record),
    ]


def _lineage(record: Record) -> list[str]:
    """Show which stages read a corpus and which files it was made of; of other data nothing is written down."""
    files, readers = input_table(record), reader_table(record)
    if files is None:
        return []
    blocks = [] if readers is None else [_table(readers, "Stages that read it")]
    blocks.append(_table(files, "Files it was made of"))
    for name, facts in record["inputs"].items():
        listed = facts["files"]
        if listed:
            more = f", the first {len(listed):,} of {facts['count']:,}" if facts["count"] > len(listed) else ""
            table = pd.DataFrame([{"file": f["path"], "bytes": f["bytes"], "SHA-256": f["sha256"]} for f in listed])
            blocks.append(_details(f"Files of {name}{more}", table_block(_counted(table))))
    return blocks


def _rules(record: Record) -> list[str]:
    rules = rule_table(record)
    return [] if rules is None else [_table(rules, "What documents were chosen by")]


def _duplicates(record: Record) -> list[str]:
    exact = sum(facts["dropped"].get(cause, 0) for facts in record["sources"].values() for cause in _EXACT)
    words = f"Exact: {exact:,} documents removed." if record.get("exact_duplicates") else "Exact: not looked for."
    unread = record.get("token_sources")
    among = f" Not looked for in the token files of {', '.join(unread)}." if unread else ""
    near = record.get("near_duplicates")
    if not near:
        return [_heading("Duplicates"), text_block(f"{words} Near: not measured.{among}")]
    counts = f" Near: {near['dropped']:,} of {near['documents']:,} documents removed." if "dropped" in near else ""
    blocks = [_heading("Duplicates"), text_block(words + counts + among)]
    if near.get("probability_by_similarity"):
        row = {
            "similarity (Jaccard)": "probability of being found",
            **{s: f"{p:.2f}" for s, p in near["probability_by_similarity"].items()},
        }
        blocks.append(table_block(pd.DataFrame([row])))
    if near.get("groups_by_size"):
        sizes = sorted((int(size), count) for size, count in near["groups_by_size"].items())
        rows = [{"documents in a group": size, "groups": count} for size, count in sizes]
        blocks.append(
            table_block(
                _counted(pd.DataFrame(rows)), "Groups of near duplicates", "Of a group the first document stays."
            )
        )
    pairs = [
        f"{_similarity(pair)}{_example(pair['kept'], 'kept')}{_example(pair['dropped'], 'removed')}"
        for pair in near.get("examples") or ()
    ]
    return [*blocks, *(_details(f"Pair {number}", pair) for number, pair in enumerate(pairs[:_PAIRS], 1))]


def _packing(record: Record) -> list[str]:
    table = packing_table(record)
    if table is None:
        return []
    note = (
        "Padding: share of the positions trained on that have no loss. Cut: documents that are in more than one sequence, "
        "packed by best fit (only those longer than the context), and as windows of the same documents one behind the other."
    )
    return [_table(table, "Packing", note)]


def _overlap(record: Record) -> list[str]:
    table = overlap_table(record)
    if table is None:
        return [_heading("Overlap with tasks"), text_block("Not checked.", kind="quiet")]
    settings = record["contamination"].get("settings") or {}
    note = "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in settings.items() if value is not None)
    dirty = (
        "Dirty: at least one passage of a task's document stood in the text that was read, before any was cut out and before "
        "caps; duplicates and held-out documents do not count. "
    )
    unchecked = record["contamination"].get("unchecked_sources")
    among = f"Not looked for in the token files of {', '.join(unchecked)}. " if unchecked else ""
    return [_table(table, "Overlap with tasks", dirty + among + (f"Settings: {note}." if note else ""))]


def _languages(record: Record) -> list[str]:
    table = language_table(record)
    if table is None:
        return [_heading("Languages"), text_block("Not counted.", kind="quiet")]
    sources: Mapping[str, Mapping[str, Any]] = record["sources"]
    notes = [_counted_by(name, facts["languages_by"]) for name, facts in sources.items() if facts.get("languages_by")]
    left = [name for name, facts in sources.items() if not facts.get("languages")]
    notes += [f"Not counted of {', '.join(left)}."] if left else []
    return [_table(table, "Languages", " ".join(notes))]


def _counted_by(source: str, by: Mapping[str, Any]) -> str:
    """Say what a source's languages were counted by: a field of all documents that stay, or a detector in some of them."""
    if by.get("field"):
        return f"Of {source}: documents that stay, by their field {by['field']}."
    return (
        f"Of {source}: {by['documents']:,} of the documents that stay, chosen by hash, as {by.get('detector')} finds them "
        "(zxx: no language)."
    )


def _heldout_left(record: Record) -> list[str]:
    title, table = "Held-out text in training text", heldout_table(record)
    if table is None or table.empty:
        return [_not_measured(title), *([text_block(_unmeasured(record))] if _unmeasured(record) else [])]
    return [_table(table, title, _heldout_note(record))]


def _unmeasured(record: Record) -> str:
    sources = record.get("overlap_unmeasured_sources")
    return f"Not measured in the token files of {', '.join(sources)}." if sources else ""


def _heldout_note(record: Record) -> str:
    words, metered, lines = (
        record.get("overlap_words"),
        record.get("overlap_metered_bytes"),
        record.get("overlap_lines"),
    )
    if words:
        among = f" {metered:,} bytes of" if metered is not None else ""
        share = f"Share of held-out passages of {words} words that stand in{among} training text, after cutting."
        return f"{share} {_unmeasured(record)}".strip()
    return f"Share of held-out bytes in runs of {lines} lines that training text has too." if lines else ""


def _heldout_examples(record: Record) -> list[str]:
    shown = [
        _details(f"Held out of {source}, document {number}", _text(text))
        for source, texts in (record.get("heldout") or {}).items()
        for number, text in enumerate(texts[:_EXAMPLES_A_CAUSE], 1)
    ]
    return [_heading("Beginnings of held-out documents"), *shown] if shown else []


def _removed_examples(record: Record) -> list[str]:
    removed: list[dict[str, Any]] | None = record.get("removed")
    if removed is None:
        return [_not_measured("Examples of removed text")]
    by_cause: dict[str, list[dict[str, Any]]] = {}
    for one in removed:
        by_cause.setdefault(one["cause"], []).append(one)
    labels = record.get("labels") or {}
    blocks = [_heading("Examples of removed text")]
    for cause, samples in sorted(by_cause.items()):
        for one in samples[:_EXAMPLES_A_CAUSE]:
            value = "" if one.get("value") is None else f" ({one['value']})"
            blocks.append(_details(f"{labels.get(cause, cause)}{value}, of {one['source']}", _text(one["text"])))
    return blocks


def _table(table: pd.DataFrame | None, title: str, note: str = "") -> str:
    if table is None or table.empty:
        return _not_measured(title)
    return _heading(title) + table_block(_counted(table), note=note)


def _counted(table: pd.DataFrame) -> pd.DataFrame:
    """Write whole numbers with commas; missing ones stay missing."""

    def written(value: Any) -> Any:
        if isinstance(value, float) and value != value:
            return None
        whole = isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()
        return f"{int(value):,}" if whole else value

    columns = {str(name): [written(value) for value in table[name].astype(object).tolist()] for name in table.columns}
    return pd.DataFrame(columns, dtype=object)


def _not_measured(title: str) -> str:
    return _heading(title) + text_block("Not measured.", kind="quiet")


def _heading(text: str, level: str = "h4") -> str:
    return f"<{level}>{html.escape(text)}</{level}>"


def _similarity(pair: Mapping[str, Any]) -> str:
    return text_block(f"Similarity {pair['similarity']:.2f}.") if "similarity" in pair else ""


def _example(of: Mapping[str, str], what: str) -> str:
    return f"<p>{html.escape(what)}, of {html.escape(of['source'])}</p>{_text(of['text'])}"


def _details(summary: str, inside: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary>{inside}</details>"


def _text(text: str) -> str:
    """Render text of a corpus: short, and what cannot be seen or would turn the page around by its code."""
    more = " …" if len(text) > _EXAMPLE_CHARACTERS else ""
    seen = "".join(c if c.isprintable() or c in "\n\t" else f"\\u{ord(c):04x}" for c in text[:_EXAMPLE_CHARACTERS])
    return f"<pre>{html.escape(seen)}{more}</pre>"
