"""Near duplicates: groups against brute force, precision and recall against true similarities."""

import itertools
import json

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tests.data.corpus.made_duplicates import edit, make_words
from workbench.config.schema.near_duplicates import NearDuplicates
from workbench.data.corpus import near_duplicate_groups
from workbench.data.corpus.minhash import bands, probability
from workbench.data.corpus.near_duplicate_groups import components, join, similar_texts, write_pairs
from workbench.data.corpus.words import Words

SETTINGS = NearDuplicates()
SIZES = (70, 0, 130, 100)


@pytest.fixture(scope="module")
def texts():
    """300 documents: 200 first ones, and 100 edited at a similarity of about 0.8 (every second) or 0.5."""
    draw = np.random.default_rng(0)
    firsts = [make_words(draw, 200) for _ in range(200)]
    edited = [edit(firsts[k], 0.8 if k % 2 else 0.5, draw) for k in range(100)]
    made = [" ".join(words) for words in [*firsts, *edited]]
    return [made[k] for k in draw.permutation(300)]


def _run(texts, folder, similar=None, order=1):
    files, start = [], 0
    for shard, size in enumerate(SIZES):
        files.append(folder / f"bands-{shard}.npy")
        np.save(files[-1], bands(Words.of(texts[start : start + size]), SETTINGS))
        start += size
    pairs = [write_pairs(band, files, folder / f"{band}.pairs", 1 << 26, similar) for band in range(14)]
    folder.joinpath("drop").mkdir()
    outputs = join(pairs[::order], SIZES, folder / "drop")
    before = np.concatenate([[0], np.cumsum(SIZES)])
    dropped = np.concatenate([np.load(file) + start for file, start in zip(outputs, before[:-1], strict=True)])
    return dropped.tolist(), json.loads((folder / "drop" / near_duplicate_groups.COMPONENTS_FILE).read_text())


@pytest.fixture(scope="module")
def similarities(texts):
    sets = [set(zip(*(text.split()[k:] for k in range(5)), strict=False)) for text in texts]
    pairs = itertools.combinations(range(300), 2)
    return {(a, b): s for a, b in pairs if (s := len(sets[a] & sets[b]) / len(sets[a] | sets[b])) > 0.2}


def test_precision_and_recall_against_all_pairs(texts, similarities, tmp_path):
    """Recall is within five standard errors of the formula's; nothing is dropped that is like nothing before it."""
    dropped, table = _run(texts, tmp_path)
    chances = {pair[1]: probability(s, SETTINGS) for pair, s in similarities.items()}
    near = {pair[1] for pair, s in similarities.items() if s > 0.7}
    assert len(near) == 50
    expected = np.array([chances[k] for k in near])
    assert abs(len(near & set(dropped)) - expected.sum()) < 5 * np.sqrt((expected * (1 - expected)).sum())
    assert len(near & set(dropped)) >= 40
    assert set(dropped) <= set(chances)
    assert table["dropped"] == len(dropped)
    assert table["groups_by_size"] == {"2": len(dropped)}
    assert len(table["examples"]) == 20
    assert all(similarities[tuple(pair)] > 0.2 for pair in table["examples"])


def test_verified_pairs_are_all_as_similar_as_asked(texts, similarities, tmp_path):
    dropped, _ = _run(texts, tmp_path, similar_texts(texts.__getitem__, 5, 0.75))
    assert dropped
    assert set(dropped) <= {pair[1] for pair, s in similarities.items() if s >= 0.75}


def test_neither_buckets_nor_order_change_a_byte(texts, tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ("one", "many", "backwards")]
    for folder in folders:
        folder.mkdir()
    results = [_run(texts, folders[0])]
    monkeypatch.setattr(near_duplicate_groups, "_CHUNK", 7)
    monkeypatch.setattr(near_duplicate_groups, "bucket_count", lambda total, budget: 16)
    results += [_run(texts, folders[1]), _run(texts, folders[2], order=-1)]
    assert results[0] == results[1] == results[2]
    written = [[file.read_bytes() for file in sorted((folder / "drop").iterdir())] for folder in folders]
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("chunk", [1, 5, 1 << 18])
def test_components_are_scipys(chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(near_duplicate_groups, "_CHUNK", chunk)
    draw = np.random.default_rng(chunk)
    for count in (0, 50, 120, 400):
        pairs = draw.integers(200, size=(count, 2))
        pairs.astype("<i8").tofile(tmp_path / "pairs")
        graph = coo_array((np.ones(count), (pairs[:, 0], pairs[:, 1])), (200, 200))
        labels = connected_components(graph, directed=False)[1]
        expected = [int(np.flatnonzero(labels == label)[0]) for label in labels]
        assert components([tmp_path / "pairs"], 200).tolist() == expected


def test_a_long_chain_is_one_component(tmp_path):
    draw = np.random.default_rng(0)
    ways = draw.permutation(20000)
    np.column_stack([ways[:-1], ways[1:]]).astype("<i8").tofile(tmp_path / "pairs")
    assert not components([tmp_path / "pairs"], 20000).any()


def test_documents_without_words_are_no_duplicates(tmp_path):
    np.save(tmp_path / "bands.npy", bands(Words.of(["", "...", "a", "A"]), SETTINGS))
    pairs = [write_pairs(0, [tmp_path / "bands.npy"], tmp_path / "pairs", 1 << 26)]
    assert np.load(join(pairs, [4], tmp_path)[0]).tolist() == [3]
