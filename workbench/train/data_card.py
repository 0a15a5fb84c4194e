"""What the model card of an exported checkpoint says of the data that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.data.data_record import make_record
from workbench.data.folders import MANIFEST
from workbench.study.files import load_yaml

NOT_CHECKED = "not checked"


def data_card(checkpoint: Path, manifest: Mapping[str, Any]) -> str:
    """Describe the data of a checkpoint in Markdown: sources, tokens, and overlap with tasks.

    Parameters
    ----------
    checkpoint
        Its directory; where that is in the outputs, `stages/<id>/checkpoints/<step>`, its prepared data are in `data/`.
    manifest
        The checkpoint's manifest.

    Returns
    -------
    str
        A section with a heading. What the prepared data would say is `unknown` or `not checked` where they are not there or
        are conversations.
    """
    counts: Mapping[str, Mapping[str, Any]] = manifest.get("counts") or {}
    fingerprint = str(manifest.get("data_fingerprint") or "")
    lines = ["## Training data", ""]
    if "tokens" in manifest:
        lines += [f"Tokens trained on since the start of the chain: {manifest['tokens']:,}.", ""]
    lines += _describe(checkpoint, fingerprint, counts)
    for earlier in _earlier(checkpoint, fingerprint):
        lines += ["", "A stage before it was trained on other data.", "", *_describe(checkpoint, earlier, {})]
    return "\n".join([*lines, ""])


def _describe(checkpoint: Path, fingerprint: str, counts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines on one store of prepared data and what was drawn from it."""
    record = _find_record(checkpoint, fingerprint)
    head = ["source", "read from", "tokens drawn", "distinct", "tokens prepared", "documents"]
    table = _table(head, _rows(counts, record))
    return [
        f"Prepared data `{fingerprint or 'unknown'}`:",
        "",
        *table,
        "",
        *_padding(counts),
        "Overlap with evaluation tasks:",
        "",
        *_overlap(record),
    ]


def _earlier(checkpoint: Path, fingerprint: str) -> list[str]:
    """Fingerprints of other data that the stages before a checkpoint's were trained on, the latest first."""
    found: list[str] = []
    config = checkpoint.resolve().parent.parent / "stage.yaml"
    while config.is_file():
        stage = load_yaml(config.read_text(encoding="utf-8"))["stage"]
        data, parent = stage.get("data_fingerprint"), stage.get("parent")
        if data and data != fingerprint and data not in found:
            found.append(str(data))
        if not parent:
            break
        config = config.parents[1] / str(parent["stage"]) / "stage.yaml"
    return found


def _find_record(checkpoint: Path, fingerprint: str) -> dict[str, Any] | None:
    """Read the record of a checkpoint's data; None where they are not beside it or are no documents."""
    places = checkpoint.resolve().parents
    if not fingerprint or len(places) < 4 or places[0].name != "checkpoints" or places[2].name != "stages":
        return None
    folder = places[3] / "data" / fingerprint
    try:
        return make_record(folder) if (folder / MANIFEST).is_file() else None
    except ValueError:  # conversations
        return None


def _rows(counts: Mapping[str, Mapping[str, Any]], record: Mapping[str, Any] | None) -> list[list[str]]:
    """List the sources that the checkpoint drew from; where it counted none, all that are prepared."""
    prepared = record["sources"] if record else {}
    rows: list[list[str]] = []
    for name in sorted(counts or prepared):
        drawn, facts = counts.get(name, {}), prepared.get(name, {})
        numbers = (drawn.get("drawn_tokens"), drawn.get("distinct_tokens"), facts.get("tokens"), facts.get("documents"))
        rows.append([name, _origin(facts.get("config")), *("unknown" if n is None else f"{n:,}" for n in numbers)])
    return rows


def _padding(counts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines on the padding among the tokens drawn, where documents were packed."""
    padded = {name: drawn["padded_share"] for name, drawn in sorted(counts.items()) if drawn.get("padded_share")}
    shares = ", ".join(f"{share:.3%} of {name}" for name, share in padded.items())
    return [f"Padding without loss, counted among the tokens drawn: {shares}.", ""] if padded else []


def _origin(config: Mapping[str, Any] | None) -> str:
    if not config or not config.get("kind"):
        return "unknown"
    path = config.get("path")
    if config["kind"] != "huggingface" or not path:
        return f"{config['kind']}{f' {Path(path).name}' if path else ''}"  # a card is for others: no paths of a machine
    return f"{path} at {config['revision']}" if config.get("revision") else str(path)


def _overlap(record: Mapping[str, Any] | None) -> list[str]:
    found = record["contamination"] if record else None
    if not found:
        return [f"{NOT_CHECKED[0].upper()}{NOT_CHECKED[1:]}."]
    rows: list[list[str]] = []
    for task, facts in sorted(found["tasks"].items()):
        checkable, dirty = facts.get("checkable"), facts.get("dirty")
        share = f"{len(dirty):,} ({len(dirty) / checkable:.1%})" if checkable and dirty is not None else NOT_CHECKED
        done = ", ".join(f"{n:,} {what}" for what, n in (facts.get("training_documents") or {}).items()) or "none"
        rows.append([task, _number(facts.get("documents")), _number(checkable), share, done])
    lines = _table(["task", "documents", "checkable", "with text in what was read", "training documents"], rows)
    lines += ["", "What was read is the text before any was cut out and before caps, without duplicates."]
    unchecked = found.get("unchecked_sources")
    return [*lines, "", f"Not checked in the token files of {', '.join(unchecked)}."] if unchecked else lines


def _number(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)]
