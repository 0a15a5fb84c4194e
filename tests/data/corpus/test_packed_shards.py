"""Packed documents of corpora: shards do not change them, and token files that were made elsewhere have them too."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from workbench.config.schema import CorpusConfig, DataConfig, MixtureSegment, SourceConfig, StreamConfig, StreamSource
from workbench.data.corpus.referenced_tokens import refuse_mask
from workbench.data.mixture import drawn_sources
from workbench.data.packed_index import make_packing, open_packing, packing_folder, read_packing
from workbench.data.store import prepare
from workbench.data.store_audit import audit
from workbench.data.stored_documents import find_documents
from workbench.data.stream import Stream
from workbench.study.layout import Layout

CONTEXT = 64


def covered(prepared, name: str, context: int = CONTEXT) -> np.ndarray:
    """How often each token of a source is in a packed sequence."""
    packed = open_packing(prepared, context)[name]
    seen = np.zeros(len(prepared.sources[name]), np.int64)
    for begin, size in zip(packed.begins.tolist(), np.abs(packed.sizes).tolist(), strict=True):
        seen[begin : begin + size] += 1
    return seen


def draw_all(prepared, context: int = CONTEXT, **changes):
    sources = {name: StreamSource(None, None) for name in prepared.sources}
    mixture = [MixtureSegment(0, dict.fromkeys(sources, 1))]
    config = StreamConfig(prepared.fingerprint, context, 0, sources, mixture, packing="best_fit", **changes)
    return Stream(prepared, config).draw(0, 50)


def test_the_size_of_shards_changes_no_packed_sequence(corpus_data: DataConfig, small_tokenizer, tmp_path):
    found = []
    for number, shard_bytes in enumerate((5_000, 20_000, 1_000_000)):
        data = dataclasses.replace(corpus_data, corpus=CorpusConfig(shard_bytes=shard_bytes))
        prepared = prepare(data, small_tokenizer, Layout(tmp_path / str(number)), workers=1)
        make_packing(prepared, CONTEXT)
        facts = read_packing(prepared, CONTEXT)
        for name, tokens in prepared.sources.items():
            assert (covered(prepared, name) == 1).all()
            assert facts[name]["tokens"] == len(tokens)
            assert facts[name]["documents"] == prepared.manifest["sources"][name]["documents"]
        files = sorted(p for name in prepared.sources for p in packing_folder(prepared, CONTEXT, name).glob("*.bin"))
        found.append([facts, [path.read_bytes() for path in files], draw_all(prepared).tokens.tolist()])
    assert found[0] == found[1] == found[2]


@pytest.fixture(name="prepared_of")
def fixture_prepared_of(llama_tokenizer, tmp_path):
    def prepared_of(path, name: str, **changes):
        source = SourceConfig("tokens", path=str(path), heldout_bytes=3_000, **changes)
        data = DataConfig("ready", {"text": source}, corpus=CorpusConfig(shard_bytes=6_000))
        return prepare(data, llama_tokenizer, Layout(tmp_path / name), workers=1)

    return prepared_of


def test_token_files_of_all_formats_have_the_same_packed_sequences_without_held_out_ones(write_tokens, prepared_of):
    found = []
    for form in ("megatron", "npy", "header", "flat"):
        path, changes = write_tokens(form)
        prepared = prepared_of(path, form, **changes)
        make_packing(prepared, CONTEXT)
        seen = covered(prepared, "text")
        for begin, end in prepared.sources["text"].excluded.tolist():
            assert not seen[begin:end].any()
            seen[begin:end] = 1
        assert (seen == 1).all()
        facts = read_packing(prepared, CONTEXT)["text"]
        assert facts["documents"] == prepared.manifest["sources"]["text"]["documents"]
        assert open_packing(prepared, CONTEXT)["text"].begins_with_bos
        found.append(draw_all(prepared).tokens.tolist())
    assert found[0] == found[1] == found[2] == found[3]


def test_documents_that_end_with_a_token_are_packed_and_masked_without_one_that_begins_them(
    encoded, prepared_of, tmp_path
):
    documents = [[*ids[1:], 2] for ids in encoded[0]]
    np.concatenate(documents).astype(np.uint16).tofile(tmp_path / "end.bin")
    prepared = prepared_of(tmp_path / "end.bin", "end", token_dtype="uint16")
    make_packing(prepared, CONTEXT)
    drawn = draw_all(prepared, document_mask=True)
    assert not open_packing(prepared, CONTEXT)["text"].begins_with_bos
    inputs, targets = drawn.tokens[:, :-1], drawn.tokens[:, 1:]
    assert not drawn.weights[inputs == 2].any()
    assert not drawn.weights[targets == prepared.bos_id].any()
    sources = {"text": StreamSource(None, None)}
    config = StreamConfig(prepared.fingerprint, CONTEXT, 0, sources, [MixtureSegment(0, {"text": 1})], True, "best_fit")
    refuse_mask(prepared.manifest, config)


def test_tokens_without_borders_are_refused(encoded, prepared_of, tmp_path):
    np.concatenate([ids[1:] for ids in encoded[0]]).astype(np.uint16).tofile(tmp_path / "window.bin")
    prepared = prepared_of(tmp_path / "window.bin", "window", token_dtype="uint16")
    with pytest.raises(
        ValueError, match=r"nothing tells the documents in token files of source 'text' apart, .*concatenate"
    ):
        make_packing(prepared, CONTEXT)
    with pytest.raises(ValueError, match=r"data.packing='best_fit'"):
        list(find_documents(prepared, "text"))
    assert not packing_folder(prepared, CONTEXT, "text").exists()


def test_tokens_without_borders_that_nothing_draws_are_not_refused(encoded, llama_tokenizer, write_tokens, tmp_path):
    """As of a source with a weight of 0, or one that is there for its held-out text."""
    np.concatenate([ids[1:] for ids in encoded[0]]).astype(np.uint16).tofile(tmp_path / "window.bin")
    path, changes = write_tokens("flat")
    sources = {
        "window": SourceConfig("tokens", path=str(tmp_path / "window.bin"), heldout_bytes=3_000, token_dtype="uint16"),
        "text": SourceConfig("tokens", path=str(path), heldout_bytes=3_000, **changes),
    }
    data = DataConfig("ready", sources, corpus=CorpusConfig(shard_bytes=6_000))
    prepared = prepare(data, llama_tokenizer, Layout(tmp_path / "out"), workers=1)
    limits = {name: StreamSource(None, None) for name in sources}

    def config(window: float) -> StreamConfig:
        mixture = [MixtureSegment(0, {"text": 1, "window": window})]
        return StreamConfig(prepared.fingerprint, CONTEXT, 0, limits, mixture, packing="best_fit")

    make_packing(prepared, CONTEXT, drawn_sources(config(0).mixture))
    assert Stream(prepared, config(0)).counts(5)["window"].drawn_tokens == 0
    assert not packing_folder(prepared, CONTEXT, "window").exists()
    with pytest.raises(ValueError, match=r"nothing tells the documents in token files of source 'window' apart"):
        make_packing(prepared, CONTEXT, drawn_sources(config(1).mixture))


def test_an_audit_finds_what_pieces_of_token_files_leave_out_or_have_twice(write_tokens, prepared_of):
    path, changes = write_tokens("megatron")
    prepared = prepared_of(path, "audited", **changes)
    make_packing(prepared, CONTEXT)
    folder = packing_folder(prepared, CONTEXT, "text")

    def found() -> str:
        checks = {check.name: check for check in audit(prepared.directory)}
        return " ".join(checks[f"packed {CONTEXT}-text: text"].wrong)

    assert not found()
    begins, sizes = (np.fromfile(folder / f"text.{name}.bin", t) for name, t in (("begins", "<i8"), ("sizes", "<i4")))
    lengths, counts = np.unique(sizes, return_counts=True)
    one, other = np.flatnonzero(sizes == lengths[counts > 1][0])[:2]
    excluded = prepared.sources["text"].excluded
    for place, value in ((other, begins[one]), (one, begins[one] + 1), (one, excluded[0, 0])):
        changed = begins.copy()
        changed[place] = value
        changed.tofile(folder / "text.begins.bin")
        assert found().startswith("pieces and held-out ranges (")
    begins.tofile(folder / "text.begins.bin")
    changed = sizes.copy()
    changed[one] = -abs(sizes[one]) if abs(sizes[one]) < CONTEXT else -CONTEXT - 1
    changed.tofile(folder / "text.sizes.bin")
    assert "1 pieces of documents that go on are not as long as a sequence" in found()
