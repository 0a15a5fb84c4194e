"""What the steps of a corpus do with a source of token files: check the ids, choose held-out documents, keep them out.

Nothing is copied. For the steps that work on texts such a shard is one without documents.

read/<shard>/token_documents.npy     int64 (documents, 3): part of the shard, first token in its file, end
read/<shard>/bands.npy               where near duplicates are sought: of no document
read/<shard>/heldout_bands.npy       where those of held-out documents are: of no document
read/<shard>/token_keys.npy          uint64 (documents, 2): hash of each document's tokens
tokens/<source>/<shard>.excluded.npy int64 (held-out documents, 3): number of the file, first token in it, end
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from workbench.config.schema import SourceConfig
from workbench.data import counts
from workbench.data import tokenizer as tokenizers
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.document_files import DocumentWriter, make_key
from workbench.data.corpus.referenced_tokens import describe_referenced
from workbench.data.corpus.shards import Part, Shard
from workbench.data.corpus.task_folder import Record
from workbench.data.corpus.token_borders import begins_in, document_keys, find_borders
from workbench.data.corpus.token_files import TokenFile, check_ids, describe, describe_source_files, given_heldout
from workbench.data.corpus.token_shards import TokenShards
from workbench.data.inputs import count_skipped, show
from workbench.data.readers import read_records, text_of
from workbench.data.sources import normalise
from workbench.data.special_tokens import choose

KEYS = "token_keys.npy"
_DECODED_TOKENS = 100_000
"""Tokens of a held-out document that are made text: its beginning, of which scores take `heldout_document_bytes`."""


def read(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Check the ids of a shard of token files, and find and hash its documents; their numbers are returned.

    Raises
    ------
    ValueError
        An id is outside the vocabulary, or a file is damaged or of another size than when it was planned.
    """
    shard, source = corpus.by_name[name], corpus.source(corpus.by_name[name])
    folder = scratch / "read" / name
    DocumentWriter(folder).close()
    for file, near in corpus.bands_files.items():
        np.save(folder / file, np.empty((0, near.bands), np.uint64))
    _, bos_id, eos_id = _load_tokenizer(corpus)
    documents, keys = [np.empty((0, 3), np.int64)], [np.empty((0, 2), np.uint64)]
    rules: Counter[str] = Counter()
    with_bos = 0
    for number, part in enumerate(shard.parts):
        file, tokens = _open(part, source)
        check_ids(tokens, corpus.tokenizer.vocab_size, whole=True, span=(part.begin, part.end))
        borders = find_borders(file, tokens, bos_id, eos_id)
        begins = begins_in(borders, tokens, part.begin, part.end)
        if len(begins) and begins[-1] > part.end:
            check_ids(tokens, corpus.tokenizer.vocab_size, whole=True, span=(part.end, int(begins[-1])))
        count = max(len(begins) - 1, 0)
        rules[borders.rule] += count
        documents.append(np.stack([np.full(count, number), begins[:-1], begins[1:]], 1).astype(np.int64))
        keys.append(document_keys(tokens, begins))
        with_bos += int((tokens.windows(begins[:-1], 1)[:, 0] == bos_id).sum())
    found = np.concatenate(documents)
    np.save(folder / "token_documents.npy", found)
    np.save(folder / KEYS, np.concatenate(keys))
    return {
        "read": len(found),
        "kept": 0,  # as texts
        "bytes": 0,
        "dropped": {},
        "tokens": int((found[:, 2] - found[:, 1]).sum()),
        "borders": dict(sorted((+rules).items())),
        "documents_with_bos": with_bos,
    }


def read_rows(corpus: Corpus, shard: Shard, rows: Sequence[int]) -> dict[int, tuple[bytes, str]]:
    """Keys and texts of a few documents of a shard."""
    folder = corpus.place("read", shard.name)
    documents = np.load(folder / "token_documents.npy", mmap_mode="r")[list(rows)]
    keys = np.load(folder / KEYS, mmap_mode="r")[list(rows)].astype(">u8")
    tokenizer, *special = _load_tokenizer(corpus)
    opened = [_open(part, corpus.source(shard))[1] for part in shard.parts]
    found: dict[int, tuple[bytes, str]] = {}
    for row, key, (part, begin, end) in zip(rows, keys, documents.tolist(), strict=True):
        ids = opened[part][begin : min(end, begin + _DECODED_TOKENS)]
        found[row] = key.tobytes(), normalise(_decode(tokenizer, ids, special)).strip("\ufffd")
    return found


def read_given(source: SourceConfig) -> list[tuple[bytes, str]]:
    """Keys and texts of `heldout_path`, in the order of their keys, each once.

    Raises
    ------
    ValueError
        The file is missing or damaged, or a record has no text.
    """
    path = given_heldout(source)
    texts = (normalise(text_of(record, source.text_field, place)) for place, record in read_records("jsonl", path))
    return sorted({make_key(text): text for text in texts}.items())


def write(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Write which tokens of a shard are held out; its counts are returned."""
    shard = corpus.by_name[name]
    folder = corpus.place("read", name)
    documents, keys = np.load(folder / "token_documents.npy"), np.load(folder / KEYS)
    rows = np.flatnonzero(_is_in(keys, np.load(corpus.place("leaks", "hashes.npy"))))
    numbers = [list(_paths(corpus, shard.source)).index(part.path) for part in shard.parts]
    excluded = documents[rows]
    same = sum(_gives_same_ids(corpus, shard, excluded.tolist()))
    excluded[:, 0] = np.array(numbers, np.int64)[excluded[:, 0]]
    (scratch / "tokens" / shard.source).mkdir(parents=True)
    np.save(scratch / "tokens" / shard.source / f"{name}.excluded.npy", excluded)
    held = int((excluded[:, 2] - excluded[:, 1]).sum())
    return {
        "tokens": corpus.folder.read_record(f"read/{name}").facts["tokens"] - held,
        "documents": len(documents) - len(rows),
        "kept": len(documents) - len(rows),
        "bytes": 0,  # no texts were written
        "left_out_bytes": None,
        "dropped": {counts.HELDOUT_SPLIT: len(rows)} if len(rows) else {},
        "excluded_tokens": held,
        "same_ids": same,
    }


def summarize(corpus: Corpus, source: str, records: Mapping[str, Record]) -> dict[str, Any]:
    """Add up a source for the manifest, which names its files; the bytes of its text were not measured.

    Raises
    ------
    ValueError
        No token is left to train on.
    """
    config, shards = corpus.data.sources[source], corpus.shards_of(source)
    reads = [records[f"read/{shard.name}"].facts for shard in shards]
    writes = [records[f"tokens/{shard.name}"].facts for shard in shards]
    total = {key: sum(facts[key] for facts in writes) for key in ("tokens", "documents", "kept", "excluded_tokens")}
    borders = sum((Counter(facts["borders"]) for facts in reads), Counter[str]())
    if not total["tokens"]:
        raise ValueError(
            f"source {source!r}: the held-out documents are all that its token files have ({borders.total():,} "
            f"documents by {', '.join(sorted(borders))}): set data.sources.{source}.heldout_path, or lower its heldout_bytes={config.heldout_bytes}"
        )
    held = sum((Counter(facts["dropped"]) for facts in writes), Counter[str]())
    read_documents = sum(facts["read"] for facts in reads)
    assert read_documents == total["kept"] + held.total(), (source, read_documents, total, held)
    return {
        **total,
        "cut": {},
        "cut_bytes": {},
        "bytes": None,
        "read": read_documents,
        "dropped": dict(held),
        "borders": dict(sorted(borders.items())),
        "documents_with_bos": sum(facts["documents_with_bos"] for facts in reads),
        "same_ids": sum(facts["same_ids"] for facts in writes),
        "max_bytes": None,
        "left_out_bytes": None,
        "skipped_files": count_skipped(config),
        "shards": [describe_referenced(file) for file in describe_source_files(config)],
        "excluded": [f"tokens/{source}/{shard.name}.excluded.npy" for shard in shards],
    }


def _paths(corpus: Corpus, source: str) -> dict[str, None]:
    """Paths of a source's files, in order."""
    return dict.fromkeys(part.path for shard in corpus.shards_of(source) for part in shard.parts)


def _is_in(keys: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each of `keys` (n, 2) is one of `wanted` (m, 2): (n,)."""
    found = np.isin(keys[:, 0], wanted[:, 0])
    for row in np.flatnonzero(found).tolist():
        found[row] = (wanted == keys[row]).all(1).any()
    return found


def _load_tokenizer(corpus: Corpus) -> tuple[Tokenizer, int, int | None]:
    """Load the tokenizer, and the ids that begin and end a text.

    Raises
    ------
    ValueError
        It is no file, or as `workbench.data.tokenizer.make_tokenizer`.
    """
    if corpus.tokenizer.kind != "file":
        raise ValueError(
            f"sources of kind 'tokens' need tokenizer.kind=file and tokenizer.path, not {corpus.tokenizer.kind!r}"
        )
    tokenizer, special = tokenizers.make_tokenizer(corpus.tokenizer, []), choose(corpus.tokenizer)
    bos_id = tokenizer.token_to_id(special.bos)
    assert bos_id is not None
    return tokenizer, bos_id, None if special.eos is None else tokenizer.token_to_id(special.eos)


def _open(part: Part, source: SourceConfig) -> tuple[TokenFile, TokenShards]:
    path = Path(part.path)
    file = describe(path, source.token_dtype)
    if path.stat().st_size != part.file_bytes:
        raise ValueError(
            f"{show(path)} has {path.stat().st_size} bytes and had {part.file_bytes} when it was planned: leave inputs as "
            "they are while they are read, or prepare again"
        )
    return file, TokenShards([path], np.dtype(file.dtype), [file.tokens], offset_bytes=[file.offset_bytes])


def _decode(tokenizer: Tokenizer, ids: NDArray[Any], special: Sequence[int | None]) -> str:
    return tokenizer.decode([i for i in ids.tolist() if i not in special], skip_special_tokens=True)


def _gives_same_ids(corpus: Corpus, shard: Shard, documents: list[list[int]]) -> Iterator[bool]:
    """Whether the text of each of these documents is encoded as the ids that it was decoded from."""
    if not documents:
        return
    tokenizer, *special = _load_tokenizer(corpus)
    for number, begin, end in documents:
        _, tokens = _open(shard.parts[number], corpus.source(shard))
        ids = tokens[begin : min(end, begin + _DECODED_TOKENS)]
        text = _decode(tokenizer, ids, special)
        encoded = tokenizer.encode(text, add_special_tokens=False).ids
        yield encoded == [i for i in ids.tolist() if i not in special]
