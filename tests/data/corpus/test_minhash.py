"""MinHash: shingles as read plainly, estimates and collisions as the formulas say, within stated bounds."""

import numpy as np
import pytest

from tests.data.corpus.made_duplicates import edit, make_words
from workbench.config.schema.near_duplicates import NearDuplicates
from workbench.data.corpus import minhash
from workbench.data.corpus.minhash import NO_WORDS, bands, jaccard, probability, shingles, signatures, threshold
from workbench.data.corpus.words import Words

FINEWEB = NearDuplicates()


def _plain_shingles(text: str, n: int = 5) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[k : k + n]) for k in range(max(1, len(words) - n + 1))} if words else set()


def test_shingles_are_those_of_a_plain_reading():
    draw = np.random.default_rng(1)
    texts = [" ".join(make_words(draw, size)) for size in (0, 1, 2, 3, 4, 5, 6, 0, 40, 4)]
    hashes, documents = shingles(Words.of(texts), 5)
    assert (np.diff(documents) >= 0).all()
    for k, text in enumerate(texts):
        assert len(set(hashes[documents == k].tolist())) == len(_plain_shingles(text))


def test_true_similarity_is_that_of_sets():
    draw = np.random.default_rng(2)
    one = make_words(draw, 300)
    other = edit(one, 0.6, draw)
    sets = _plain_shingles(" ".join(one)), _plain_shingles(" ".join(other))
    assert jaccard(" ".join(one), " ".join(other), 5) == len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    assert jaccard("", "", 5) == 0


@pytest.mark.parametrize("similarity", [0.3, 0.6, 0.8])
def test_estimates_and_collisions_follow_the_formulas(similarity):
    """Within five standard errors of the mean over 400 pairs: of the similarity, and of the rate at which bands agree."""
    draw = np.random.default_rng(3)
    firsts = [make_words(draw, 300) for _ in range(400)]
    texts = [" ".join(words) for one in firsts for words in (one, edit(one, similarity, draw))]
    true = np.array([jaccard(texts[k], texts[k + 1], 5) for k in range(0, 800, 2)])
    words = Words.of(texts)
    least = signatures(words, FINEWEB)
    agreed = (least[:, ::2] == least[:, 1::2]).mean(0)
    error = np.sqrt((true * (1 - true)).mean() / 112 / 400)
    assert abs((agreed - true).mean()) < 5 * error
    assert (agreed - true).std() == pytest.approx(np.sqrt((true * (1 - true)).mean() / 112), rel=0.2)
    hashed = bands(words, FINEWEB)
    collided = (hashed[::2] == hashed[1::2]).any(1).mean()
    expected = np.array([probability(s, FINEWEB) for s in true])
    assert abs(collided - expected.mean()) < 5 * np.sqrt((expected * (1 - expected)).mean() / 400)


def test_bands_do_not_depend_on_the_batch():
    """Nor on where blocks end: one document is longer than a block of shingles, and some have no words."""
    draw = np.random.default_rng(4)
    texts = [" ".join(make_words(draw, size)) for size in (3, 0, 40000, 100, 0, 0, 7)]
    together = bands(Words.of(texts), FINEWEB)
    alone = np.concatenate([bands(Words.of([text]), FINEWEB) for text in texts])
    assert (together == alone).all()
    assert ((together == NO_WORDS).all(1) == [not text for text in texts]).all()
    assert bands(Words.of([]), FINEWEB).shape == (0, 14)


def test_smallest_values_are_those_of_all_shingles():
    draw = np.random.default_rng(5)
    words = Words.of([" ".join(make_words(draw, size)) for size in (20000, 50)])
    values = (shingles(words, 5)[0] >> np.uint64(32)).astype(np.uint32)
    documents = shingles(words, 5)[1]
    factors, summands = minhash._functions(112)
    for document in (0, 1):
        mapped = values[documents == document][:, None].astype(object) * factors.tolist() + summands.tolist()
        assert (signatures(words, FINEWEB)[:, document] == (mapped % 2**32).min(0)).all()


def test_fineweb_finds_what_its_paper_says():
    """Penedo et al. 2024, section 3.4: pairs of similarity 0.7, 0.75, 0.8 and 0.85 by 56, 77, 92 and 98.8%."""
    found = [round(100 * probability(s, FINEWEB), 1) for s in (0.7, 0.75, 0.8, 0.85)]
    assert found == [56.5, 77.2, 92.4, 98.8]
    assert threshold(FINEWEB) == pytest.approx(0.719, abs=5e-4)
    with pytest.raises(ValueError, match=r"least_similarity=0: set it above 0"):
        NearDuplicates(least_similarity=0)


def test_a_stored_band_lies_together(tmp_path):
    parts = [bands(Words.of(["a b", "c"]), FINEWEB), bands(Words.of(["d"]), FINEWEB)]
    np.save(tmp_path / "bands.npy", np.concatenate(parts))
    assert np.load(tmp_path / "bands.npy", mmap_mode="r")[:, 3].flags.c_contiguous
