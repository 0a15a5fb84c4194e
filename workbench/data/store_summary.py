"""What is in a token store, for people: what was read, what was dropped and why, and what deserves a look."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from workbench.config.schema.data import DEFAULT_HELDOUT_PERCENT
from workbench.data.counts import HELDOUT_SPLIT, in_order, label, name_counts
from workbench.data.inputs import some_names
from workbench.data.special_tokens import SpecialTokens
from workbench.data.store import Prepared

_FILLED = 0.9
"""Part of a cap that a source fills at least where the documents are small; less deserves a look."""

_FEW_DOCUMENTS = 20
"""Held-out documents of a source below which a standard error over them is itself a guess (within a sixth, at 20)."""

Table = tuple[list[str], list[list[str]]]
"""Head and rows."""


def describe(prepared: Prepared) -> str:
    """Lines that name a store and its tokens, and say how much held-out text its training text still holds."""
    manifest = prepared.manifest
    lines = [f"data {prepared.fingerprint} in {prepared.directory} (made in {manifest['seconds']:.0f} s)"]
    lines.append(f"  tokens: {SpecialTokens(**manifest['tokenizer']['special'])}")
    for name, source in manifest["config"]["data"]["sources"].items():
        if source["kind"] == "huggingface" and source["revision"]:
            lines.append(f"  {name}: {source['path']} at commit {source['revision']}")
    length = manifest["config"]["data"]["overlap_lines"]
    for name, source in manifest["sources"].items():
        if "excluded" in source:
            lines.append(_describe_token_files(name, source))
            continue
        for cause, documents in source.get("cut", {}).items():  # of a corpus
            lines.append(
                f"  {name}: {label(cause)} is cut out of {documents:,} training documents "
                f"({source['cut_bytes'].get(cause, 0):,} bytes)"
            )
    if "overlap_metered_bytes" in manifest:
        return "\n".join([*lines, *_describe_corpus(prepared)])
    for name, left in manifest.get("overlap_left", {}).items():
        before = manifest["overlap_before"][name]
        lines.append(
            f"  overlap of {name}'s held-out bytes with training, in runs of {length} lines: {before['share']:.1%} "
            f"before cutting, {left['share']:.2%} left (worst document {left['worst_document']:.1%})"
        )
    return "\n".join(lines)


def _describe_token_files(name: str, source: dict[str, Any]) -> str:
    share = source["excluded_tokens"] / (source["excluded_tokens"] + source["tokens"])
    return (
        f"  {name}: token files ({len(source['shards']):,}), used where they are; documents by "
        f"{', '.join(source['borders'])}; held-out ones have {source['excluded_tokens']:,} tokens ({share:.2%})"
    )


def _describe_corpus(prepared: Prepared) -> list[str]:
    """Lines on what of held-out text is left in a corpus, on near duplicates, and on benchmark texts."""
    manifest = prepared.manifest
    words, size = manifest["config"]["data"]["corpus"]["overlap_words"], manifest["overlap_metered_bytes"]
    lines = [
        f"  passages of {words} words of {name}'s held-out text that are left in {size:,} bytes of training text: "
        f"{left['share']:.2%} (worst document {left['worst_document']:.1%})"
        for name, left in manifest["overlap_left"].items()
    ]
    if unmeasured := manifest.get("overlap_unmeasured_sources"):
        lines.append(f"  held-out text: not measured in the token files of {', '.join(unmeasured)}")
    near = _read(prepared, "near_duplicates.json")
    if near is not None:
        lines.append(
            f"  near duplicates: {near['dropped']:,} documents dropped, beside exact ones; largest group "
            f"{max(map(int, near['groups_by_size']), default=1):,}"
        )
    found = _read(prepared, "contamination.json")
    if found is not None:
        done = ", ".join(f"{count:,} {what}" for what, count in found["training_documents"].items())
        lines.append(f"  training documents with benchmark text: {done or 'none'}")
        if unchecked := found.get("unchecked_sources"):
            lines.append(f"  benchmark text: not looked for in the token files of {', '.join(unchecked)}")
        for task, facts in found["tasks"].items():
            lines.append(
                f"  {task}: {len(facts['dirty']):,} of {facts['checkable']:,} documents that can be checked have a passage of "
                f"{found['settings']['report_ngram']} words in the text that was read, before cuts and caps"
            )
    return lines


def _read(prepared: Prepared, name: str) -> dict[str, Any] | None:
    path = prepared.directory / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def source_table(prepared: Prepared) -> Table:
    """Tabulate what each source holds."""
    head = ["source", "tokens", "documents", "bytes", "max_bytes", "filled", "bytes/token", "held out"]
    rows = []
    for name, source in prepared.manifest["sources"].items():
        cap, words = source["max_bytes"], source["tokens"] - source["documents"]
        rows.append(
            [
                name,
                f"{source['tokens']:,}",
                f"{source['documents']:,}",
                "not measured" if source["bytes"] is None else f"{source['bytes']:,}",
                "none" if cap is None else f"{cap:,}",
                "all" if cap is None else f"{source['bytes'] / cap:.1%}",
                f"{source['bytes'] / words:.2f}" if words and source["bytes"] is not None else "unknown",
                f"{source['heldout_documents']:,} documents, {source['heldout_bytes']:,} bytes",
            ]
        )
    return head, rows


def dropped_table(prepared: Prepared) -> Table:
    """Tabulate the documents read for training up to the cap, and those dropped, by source and cause.

    A document out of which held-out text was cut counts as its pieces. In a corpus it counts once, and documents behind
    the cap count, too.
    """
    sources = prepared.manifest["sources"]
    causes = in_order(sum((Counter(source["dropped"]) for source in sources.values()), Counter[str]()))
    head = ["source", "read", "kept", *map(label, causes)]
    rows = [
        [
            name,
            *(f"{n:,}" for n in (source["read"], _kept(source), *(source["dropped"].get(c, 0) for c in causes))),
        ]
        for name, source in sources.items()
    ]
    return head, rows


def _kept(source: dict[str, Any]) -> int:
    return source["kept"] if "kept" in source else source["documents"]


def notes(prepared: Prepared) -> list[str]:
    """Lines on what deserves a look: files not read, caps left unfilled, and too few held-out documents."""
    found: list[str] = []
    for name, source in prepared.manifest["sources"].items():
        skipped = source["skipped_files"]
        if skipped["count"]:
            kind = prepared.manifest["config"]["data"]["sources"][name]["kind"]
            names = some_names(skipped["names"] + [""] * (skipped["count"] - len(skipped["names"])))
            found.append(f"source {name!r}: {skipped['count']:,} files there are not read as {kind}: {names}")
        found += _note_on_cap(name, source)
        found += _note_on_ids(name, source)
        found += _note_on_copies(name, source)
    return [*found, *heldout_notes(prepared)]


def ignored_percent(data: Mapping[str, Any]) -> list[str]:
    """Line on a `heldout_percent` that was set for a corpus, where it chooses nothing; `data` as in a manifest's config."""
    percent = data.get("heldout_percent", DEFAULT_HELDOUT_PERCENT)
    if data.get("corpus") is None or percent == DEFAULT_HELDOUT_PERCENT:
        return []
    amounts = ", ".join(f"{source['heldout_bytes']:,} of {name}" for name, source in data["sources"].items())
    return [
        f"data.heldout_percent={percent:g} chooses nothing in a corpus, which holds out an amount of text: bytes of "
        f"data.sources.*.heldout_bytes are {amounts}"
    ]


def heldout_notes(prepared: Prepared) -> list[str]:
    """Lines on sources whose scores rest on few held-out documents."""
    found = []
    data = prepared.manifest["config"]["data"]
    for name, source in prepared.manifest["sources"].items():
        count, size = source["heldout_documents"], source["heldout_bytes"]
        if 0 < count < _FEW_DOCUMENTS:
            more = f"more than data.heldout_percent={data['heldout_percent']} of its files, and at most "
            if data.get("corpus"):
                more = "more than "
            documents = "1 held-out document" if count == 1 else f"{count} held-out documents"
            found.append(
                f"source {name!r}: scores rest on {documents} ({size:,} bytes), too few for error bars to mean much: hold out "
                f"{more}data.sources.{name}.heldout_bytes={data['sources'][name]['heldout_bytes']}"
            )
    return found


def _note_on_ids(name: str, source: dict[str, Any]) -> list[str]:
    held = source["dropped"].get(HELDOUT_SPLIT, 0)
    if "same_ids" not in source or 2 * source["same_ids"] >= held or "window" in source["borders"]:
        return []
    return [
        f"source {name!r}: of {held:,} held-out documents of its token files, the text of {source['same_ids']:,} is encoded as the "
        "ids that it was decoded from: were the files made with this tokenizer?"
    ]


def _note_on_copies(name: str, source: dict[str, Any]) -> list[str]:
    lost = {cause: n for cause, n in source.get("lost_copies", {}).items() if n}
    if not lost:
        return []
    return [
        f"source {name!r}: {sum(lost.values()):,} documents were dropped as duplicates of some that went later on "
        f"({', '.join(label(cause) for cause in in_order(lost))}): their text is nowhere in the corpus"
    ]


def _note_on_cap(name: str, source: dict[str, Any]) -> list[str]:
    size, cap, left_out = source["bytes"], source["max_bytes"], source["left_out_bytes"]
    if left_out is None or size >= _FILLED * cap:
        return []
    return [
        f"source {name!r}: ends at {size:,} of max_bytes={cap:,} bytes ({size / cap:.0%}), because the next document has "
        f"{left_out:,} bytes; smaller ones behind it are not taken, so that a smaller cap is the beginning of a larger "
        f"one: set max_bytes to {size + left_out} or more to go on"
    ]


def describe_heldout(prepared: Prepared) -> list[str]:
    """Lines on the documents that were looked at and not held out, by source and cause.

    In data that are built in one pass they are of the split, which is kept out of training; a corpus has none.
    """
    corpus = prepared.manifest["config"]["data"].get("corpus") is not None
    what = "looked at and not held out are" if corpus else "of the held-out split not chosen are"
    return [
        f"  {name}: {what} {name_counts(source['heldout_passed_over'])}"
        for name, source in prepared.manifest["sources"].items()
        if source["heldout_passed_over"]
    ]
