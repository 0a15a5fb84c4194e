"""The audit of a prepared token store: what its files say for themselves, compared with its manifest.

Nothing but the store's folder is read, and the packed documents that lie beside it, so that anybody who was given these can
repeat this. What writes stores and what audits
them share the tokenizer's library and the checksum; held-out text is looked for by `workbench.data.overlap.OverlapMeter` and
`workbench.data.corpus.leak_meter`, which share no code with what cuts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data import audit_files
from workbench.data.audit_check import OK, UNCHECKED, WRONG, Check, Sample, describe
from workbench.data.audit_packing import check_packing
from workbench.data.audit_texts import TextAudit, choose_documents
from workbench.data.audit_tokens import check_begins, check_ids, scan

__all__ = ["OK", "UNCHECKED", "WRONG", "Check", "Sample", "audit", "describe"]


def audit(directory: Path, sample: Sample | None = None) -> Iterator[Check]:
    """Check a store by its files alone.

    Parameters
    ----------
    directory
        The store, wherever it is; its name is its fingerprint.
    sample
        How much to look at; None takes the defaults.

    Yields
    ------
    Check
        One thing after the other, as soon as it was looked at.

    Raises
    ------
    ValueError
        There is no store of a format that can be audited.
    """
    sample = sample or Sample()
    directory = directory.expanduser().resolve()
    manifest = audit_files.open_manifest(directory)
    try:
        yield from _audit(directory, manifest, sample)
    except (KeyError, TypeError, AttributeError) as error:
        yield Check("manifest", WRONG, "it does not have what its format has", (f"{type(error).__name__}: {error}",))


def _audit(directory: Path, manifest: Mapping[str, Any], sample: Sample) -> Iterator[Check]:
    files = audit_files.token_files(directory, manifest)
    chosen = audit_files.choose_files(files, sample)
    yield audit_files.check_name(directory, manifest)
    yield audit_files.check_sizes(directory, manifest)
    passed_over = {file.name for file in files} - {file.name for file in chosen}
    yield audit_files.check_sums(directory, manifest, passed_over)
    yield audit_files.check_counts(manifest, files)
    if audit_files.elsewhere(manifest):
        yield audit_files.check_elsewhere(manifest)
    yield audit_files.check_offsets(chosen)
    vocab_size, bos_id = manifest["tokenizer"]["vocab_size"], manifest["tokenizer"]["bos_id"]
    there = [file for file in chosen if file.path.is_file()]
    scans = [(file, scan(file.path, np.dtype(manifest["dtype"]), bos_id, vocab_size)) for file in there]
    yield check_ids(scans, vocab_size)
    yield check_begins(scans, len(files))
    yield from check_packing(directory, manifest, files, scans)
    heldout, check = audit_files.read_heldout(directory, manifest)
    yield check
    try:
        texts = TextAudit(directory, manifest, heldout)
    except Exception as error:  # the library raises nothing more special
        yield Check("text", UNCHECKED, f"the tokenizer cannot be read: {error}")
        return
    for file, found, documents in choose_documents(scans, sample):
        texts.read(file, found, documents)
    yield from texts.checks()
