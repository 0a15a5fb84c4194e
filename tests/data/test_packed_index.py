"""Packed documents: each token once an epoch, nothing cut that fits, the same from wherever one looks."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from workbench.config.schema import MixtureSegment, StreamConfig, StreamSource
from workbench.data.best_fit import best_fit_decreasing
from workbench.data.data_record import make_record
from workbench.data.folders import verify_files
from workbench.data.packed_index import (
    PackedSource,
    blocks,
    make_packing,
    open_packing,
    pack_block,
    packing_folder,
    packing_lines,
    read_packing,
)
from workbench.data.packed_rows import lay_out_pieces
from workbench.data.packing import pack
from workbench.data.store import open_prepared
from workbench.data.stored_documents import find_documents
from workbench.data.stream import Stream, is_packed_for

BOS = 1
CONTEXT = 32


def make_tokens(seed: int, documents: int = 400, begins_with_bos: bool = True):
    """Documents of random lengths, some longer than several contexts: their tokens in a row, and where they are."""
    draw = np.random.default_rng(seed)
    lengths = np.maximum(1, draw.lognormal(2.7, 0.9, documents)).astype(np.int64)
    ends = np.cumsum(lengths)
    tokens = draw.integers(2, 30_000, ends[-1])
    if begins_with_bos:
        tokens[ends - lengths] = BOS
    return tokens, np.stack([ends - lengths, ends], 1)


def pack_all(documents, context: int = CONTEXT, pieces: int = 64, begins_with_bos: bool = True) -> PackedSource:
    packed = [pack_block(block, context) for block in blocks(iter([documents]), context, pieces)]
    counts = np.concatenate([[0], *(np.diff(each.starts) for each in packed)])
    begins, sizes = (np.concatenate([getattr(each, name) for each in packed]) for name in ("begins", "sizes"))
    used = (documents[:, 1] - documents[:, 0]).sum()
    share = 1 - used / ((len(counts) - 1) * context)
    return PackedSource(begins, sizes.astype(np.int32), np.cumsum(counts), BOS, begins_with_bos, share)


class Made:
    """A store of two sources of made-up documents, packed in small blocks."""

    fingerprint = "f" * 16

    def __init__(self) -> None:
        made = {"a": make_tokens(1), "b": make_tokens(2, 150)}
        self.sources = {name: tokens for name, (tokens, _) in made.items()}
        self.packing = {name: pack_all(documents) for name, (_, documents) in made.items()}

    def stream(self, mixture=None, **changes) -> Stream:
        sources = {name: StreamSource(None, None) for name in self.sources}
        mixture = mixture or [MixtureSegment(0, {"a": 7, "b": 3}), MixtureSegment(200, {"a": 1, "b": 1}, 100)]
        config = StreamConfig(self.fingerprint, CONTEXT, 0, sources, mixture, packing="best_fit")
        return Stream(self, replace(config, **changes), self.packing)


@pytest.mark.parametrize("seed", range(12))
def test_groups_of_lengths_leave_the_rooms_that_one_at_a_time_leaves(seed):
    draw = random.Random(seed)
    room = draw.choice([1, 2, 7, 64, 513, 2048])
    lengths = np.array([draw.randint(1, draw.choice([room, max(room // 9, 1)])) for _ in range(draw.randint(0, 900))])
    found = best_fit_decreasing(lengths.astype(np.int64), room)
    assert sorted(found.order.tolist()) == list(range(len(lengths)))
    if not len(lengths):
        assert found.starts.tolist() == [0]
        return
    members = np.split(found.order, found.starts[1:-1])
    assert all((np.diff(each) > 0).all() for each in members)
    one_at_a_time = pack(lengths.tolist(), room, "best_fit")
    totals, expected = (np.add.reduceat(lengths[p.order], p.starts[:-1]) for p in (found, one_at_a_time))
    assert sorted(totals.tolist()) == sorted(expected.tolist())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("context", [8, 32, 500])
def test_each_piece_is_in_one_sequence_and_what_fits_is_not_cut(seed, context):
    _, documents = make_tokens(seed)
    packed = pack_all(documents, context)
    sizes = np.abs(packed.sizes)
    used = np.add.reduceat(sizes, packed.starts[:-1])
    assert used.max() <= context
    assert (np.diff(packed.starts) > 0).all()
    pieces = sorted(zip(packed.begins.tolist(), packed.sizes.tolist(), strict=True))
    expected = []
    for begin, end in documents.tolist():
        cuts = list(range(begin, end, context))
        expected += [(cut, -context if cut + context < end else end - cut) for cut in cuts]
    assert pieces == sorted(expected)
    fitting = {(begin, end - begin) for begin, end in documents.tolist() if end - begin <= context}
    assert fitting <= set(pieces)


@pytest.mark.parametrize("seed", range(4))
def test_there_is_little_padding(seed):
    """Of random lengths with many short ones, in one block."""
    _, documents = make_tokens(seed, 4000)
    for context, most in ((8, 0.005), (32, 0.005), (500, 0.02)):
        packed = pack_all(documents, context, pieces=1 << 18)
        assert 0 <= packed.padded_share < most


def test_blocks_are_of_the_documents_alone_however_they_come():
    _, documents = make_tokens(3)
    whole = list(blocks(iter([documents]), CONTEXT, 50))
    assert (np.concatenate(whole) == documents).all()
    pieces = [(-(-np.diff(block, axis=1) // CONTEXT)).ravel() for block in whole]
    assert all(each.sum() >= 50 > each[:-1].sum() for each in pieces[:-1])
    for parts in (1, 2, 7, 150, 400):
        divided = list(blocks(iter(np.array_split(documents, parts)), CONTEXT, 50))
        assert [block.tolist() for block in divided] == [block.tolist() for block in whole]


@pytest.mark.parametrize("begins_with_bos", [True, False])
def test_a_sequence_is_what_follows_in_its_documents(begins_with_bos):
    """Written down independently: each input's target is the next token of its document, or the beginning of another."""
    tokens, documents = make_tokens(5, begins_with_bos=begins_with_bos)
    packed = pack_all(documents, begins_with_bos=begins_with_bos)
    ends = {int(end) for end in documents[:, 1]}
    begins = {int(begin) for begin in documents[:, 0]}
    inputs, targets = Counter(), 0
    for sequence in range(packed.sequences):
        row, weights, positions, numbers = lay_out_pieces(packed, tokens, sequence, CONTEXT)
        assert (row.dtype, weights.dtype, positions.dtype, numbers.dtype) == ("i8", "f4", "i8", "i8")
        places = slice(*packed.starts[sequence : sequence + 2])
        pieces = list(zip(packed.begins[places].tolist(), np.abs(packed.sizes[places]).tolist(), strict=True))
        at = 0
        for number, (begin, size) in enumerate(pieces):
            for offset in range(size):
                source, place = begin + offset, at + offset
                inputs[source] += 1
                assert row[place] == tokens[source]
                assert (positions[place], numbers[place]) == (offset, number)
                follows = source + 1 not in ends
                if follows and place + 1 < CONTEXT + 1 and not (offset == size - 1 and size < CONTEXT):
                    assert (row[place + 1], weights[place]) == (tokens[source + 1], 1)
                elif not follows:
                    last = number + 1 == len(pieces)
                    taught = begins_with_bos and (last or pieces[number + 1][0] in begins)
                    assert weights[place] == taught
                    assert not taught or row[place + 1] == BOS
            at += size
        assert not weights[at:].any()
        assert set(row[at:CONTEXT].tolist()) <= {BOS}
        assert set(numbers[at:].tolist()) <= {len(pieces)}
        targets += weights.sum()
    assert inputs == Counter(range(len(tokens)))
    cut = int((np.diff(documents, axis=1) > CONTEXT).sum())
    whole = len(tokens) if begins_with_bos else len(tokens) - len(documents)
    assert whole - cut <= targets <= whole


def test_an_epoch_has_each_token_once_and_the_next_one_another_order():
    store = Made()
    stream = store.stream([MixtureSegment(0, {"a": 1})], sources={"a": StreamSource(None, None)})
    count = store.packing["a"].sequences
    epochs = [stream.windows(epoch * count, count)[1].tolist() for epoch in range(3)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    drawn = stream.draw(0, count)
    full = np.array(
        [(np.abs(store.packing["a"].sizes[slice(*store.packing["a"].starts[w : w + 2])])).sum() for w in epochs[0]]
    )
    inputs = Counter(t for row, size in zip(drawn.tokens, full, strict=True) for t in row[:size].tolist())
    assert inputs == Counter(store.sources["a"].tolist())
    counts = stream.counts(2 * count)["a"]
    assert counts.drawn_tokens == 2 * counts.distinct_tokens == 2 * count * CONTEXT
    assert (counts.epochs, counts.max_repeats) == (2, 2)
    assert counts.padded_share == pytest.approx(1 - len(store.sources["a"]) / (count * CONTEXT))


def test_random_access_ranks_and_stops_give_the_same_batches():
    whole = Made().stream().draw(0, 600)
    for ranks in (1, 2, 4):
        parts = [[None] * 600 for _ in whole]
        for rank in range(ranks):
            stream = Made().stream()
            for start in range(0, 600, 40):
                share = 40 // ranks
                drawn = stream.draw(start + rank * share, share)
                for part, values in zip(parts, drawn, strict=True):
                    part[start + rank * share : start + (rank + 1) * share] = list(values)
        assert all((np.array(part) == values).all() for part, values in zip(parts, whole, strict=True))
    stream = Made().stream()
    for stop in (599, 1, 300, 201, 0, 431):
        drawn = stream.draw(stop, 600 - stop)
        assert all((values == all_values[stop:]).all() for values, all_values in zip(drawn, whole, strict=True))


def test_smaller_budgets_are_the_beginning_of_larger_ones_and_repetition_is_refused():
    drawn = {}
    for budget in (40, 90, None):
        limit = StreamSource(None if budget is None else budget * CONTEXT, 1.5)
        stream = Made().stream([MixtureSegment(0, {"a": 1})], sources={"a": limit})
        drawn[budget] = set(stream.windows(0, 2000)[1].tolist())
        if budget:
            assert len(drawn[budget]) == budget
            stream.check(budget * 3 // 2)
            with pytest.raises(ValueError, match=f"{budget * CONTEXT} distinct ones and max_epochs=1.5"):
                stream.check(budget * 3 // 2 + 1)
    assert drawn[40] < drawn[90] < drawn[None]


def read_documents(prepared, source):
    return np.concatenate(list(find_documents(prepared, source)))


def stream_config(prepared, context: int, **changes) -> StreamConfig:
    sources = {name: StreamSource(None, None) for name in prepared.sources}
    mixture = [MixtureSegment(0, dict.fromkeys(sources, 1))]
    return StreamConfig(prepared.fingerprint, context, 0, sources, mixture, packing="best_fit", **changes)


def check_store(prepared, context: int, said: list[str]) -> None:
    """Every token of the documents is in one place of the packed sequences, and the counts are theirs."""
    make_packing(prepared, context, say=said.append)
    facts, packing = read_packing(prepared, context), open_packing(prepared, context)
    for name, tokens in prepared.sources.items():
        documents = read_documents(prepared, name)
        seen = np.zeros(len(tokens), np.int64)
        for begin, size in zip(packing[name].begins.tolist(), np.abs(packing[name].sizes).tolist(), strict=True):
            seen[begin : begin + size] += 1
        expected = np.zeros(len(tokens), np.int64)
        for begin, end in documents.tolist():
            expected[begin:end] += 1
        assert (seen == expected).all()
        assert expected.max() == 1
        lengths = np.diff(documents, axis=1).ravel()
        assert facts[name]["documents"] == len(documents)
        assert facts[name]["tokens"] == lengths.sum()
        assert facts[name]["cut"] == (lengths > context).sum()
        windows = [begin // context != (end - 1) // context for begin, end in documents.tolist()]
        assert facts[name]["cut_in_windows"] == sum(windows)
        assert facts[name]["sequences"] * context == facts[name]["tokens"] + facts[name]["padded"]
        assert facts[name]["sequences"] == packing[name].sequences


def test_a_store_made_in_one_pass(prepared):
    said: list[str] = []
    config = stream_config(prepared, 128)
    assert not is_packed_for(prepared, config)
    with pytest.raises(
        ValueError, match=r"source 'a' of data .* not packed into sequences of 128 yet: `workbench prepare` or"
    ):
        Stream(prepared, config)
    check_store(prepared, 128, said)
    assert is_packed_for(prepared, config)
    for name in prepared.sources:
        documents = read_documents(prepared, name)
        assert len(documents) == prepared.manifest["sources"][name]["documents"]
        assert (prepared.sources[name][documents[:, 0]] == prepared.bos_id).all()
    for name in prepared.sources:
        folder = packing_folder(prepared, 128, name)
        verify_files(folder, json.loads((folder / "manifest.json").read_text()))
    folder = packing_folder(prepared, 128, "a")
    assert [line.startswith("source ") for line in said[1:]] == [True, True]
    assert said[1:] == packing_lines(read_packing(prepared, 128))
    before = len(said)
    make_packing(prepared, 128, say=said.append)
    assert len(said) == before
    check_store(prepared, 256, said)  # another context beside it
    assert Stream(prepared, config).batch(0, 3)[0].shape == (3, 129)
    with pytest.raises(ValueError, match="holds places of packed documents, not prepared documents"):
        open_prepared(folder)
    (folder / "a.sizes.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a.sizes.bin has 0 bytes, not"):
        open_packing(prepared, 128)


def test_documents_are_found_across_the_blocks_in_which_tokens_are_read(prepared, monkeypatch):
    whole = read_documents(prepared, "a")
    for block in (1, 7, 100):
        monkeypatch.setattr("workbench.data.stored_documents._BLOCK", block)
        assert (read_documents(prepared, "a") == whole).all()


def test_what_a_killed_packing_left_is_made_anew(prepared, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("workbench.data.packed_index.pack_block", stop)
        with pytest.raises(KeyboardInterrupt):
            make_packing(prepared, 64)
    assert not packing_folder(prepared, 64, "a").exists()
    partial = packing_folder(prepared, 64, "a").with_name(f"{prepared.fingerprint}-64-a.partial")
    partial.mkdir(parents=True)
    (partial / "a.begins.bin").write_bytes(b"abc")
    check_store(prepared, 64, [])
    assert not partial.exists()


def test_sources_are_packed_when_something_draws_from_them(prepared):
    """Not those with a weight of 0 throughout; what is there is packed once, and counted as it was."""
    said: list[str] = []
    sources = {name: StreamSource(None, None) for name in prepared.sources}
    mixture = [MixtureSegment(0, {"a": 1, "b": 0})]
    config = StreamConfig(prepared.fingerprint, 128, 0, sources, mixture, packing="best_fit")
    make_packing(prepared, 128, ["a"], say=said.append)
    assert not packing_folder(prepared, 128, "b").exists()
    assert is_packed_for(prepared, config)
    stream = Stream(prepared, config)
    assert (stream.draw(0, 20).sources == 0).all()
    counts = stream.counts(20)
    assert (counts["a"].drawn_tokens, counts["b"].drawn_tokens, counts["b"].epochs) == (20 * 128, 0, 0.0)
    stream.check(20)
    later = replace(config, mixture=[*mixture, MixtureSegment(20, {"a": 1, "b": 1})])
    assert not is_packed_for(prepared, later)
    with pytest.raises(ValueError, match=r"source 'b' of data .* not packed into sequences of 128 yet"):
        Stream(prepared, later)
    before = (packing_folder(prepared, 128, "a") / "manifest.json").stat()
    make_packing(prepared, 128, ["a", "b"], say=said.append)
    assert (packing_folder(prepared, 128, "a") / "manifest.json").stat() == before
    assert [line[:10] for line in said] == ["packing th", "source 'a'", "packing th", "source 'b'"]
    drawn = Stream(prepared, later).draw(0, 20)
    assert (drawn.tokens == stream.draw(0, 20).tokens).all()
    assert [one["sources"].keys() for one in make_record(prepared.directory)["packing"]] == [{"a", "b"}]


def test_an_index_of_all_sources_that_an_earlier_version_made_is_read(prepared):
    make_packing(prepared, 128)
    drawn = Stream(prepared, stream_config(prepared, 128)).draw(0, 30)
    folders = [packing_folder(prepared, 128, name) for name in prepared.sources]
    before = folders[0].with_name(f"{prepared.fingerprint}-128")
    before.mkdir()
    keys = ("sources", "files")
    whole: dict = {key: {} for key in keys}
    for folder in folders:
        manifest = json.loads((folder / "manifest.json").read_text())
        whole = manifest | {key: whole[key] | manifest[key] for key in keys}
        for path in folder.glob("*.bin"):
            path.replace(before / path.name)
        (folder / "manifest.json").unlink()
    (before / "manifest.json").write_text(json.dumps(whole | {"fingerprint": before.name}))
    assert is_packed_for(prepared, stream_config(prepared, 128))
    make_packing(prepared, 128, say=pytest.fail)
    again = Stream(prepared, stream_config(prepared, 128)).draw(0, 30)
    assert (again.tokens == drawn.tokens).all()
