"""Documents of token files, by every rule, whatever the parts that a file is cut into."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest

from workbench.data.corpus import token_borders
from workbench.data.corpus.token_borders import Borders, begins_in, document_keys, find_borders
from workbench.data.corpus.token_files import describe
from workbench.data.corpus.token_shards import TokenShards


@pytest.fixture(name="opened")
def fixture_opened(tmp_path):
    def opened(tokens):
        np.array(tokens, np.uint16).tofile(tmp_path / "a.bin")
        return describe(tmp_path / "a.bin", "uint16"), TokenShards([tmp_path / "a.bin"], np.uint16)

    return opened


@pytest.mark.parametrize(
    ("tokens", "bos", "eos", "borders", "begins"),
    [
        ([1, 5, 6, 1, 7, 2, 1, 8], 1, 2, Borders("begin", 1), [0, 3, 6, 8]),
        ([5, 6, 1, 7], 1, 2, Borders("begin", 1), [0, 2, 4]),  # a file that begins inside a document
        ([1, 5, 2, 6, 2], 1, 2, Borders("end", 2), [0, 3, 5]),
        ([5, 2, 2, 6], 1, 2, Borders("end", 2), [0, 2, 3, 4]),
        ([0, 5, 0, 6], 0, 0, Borders("begin", 0), [0, 2, 4]),
        ([5, 0, 6, 0], 0, 0, Borders("end", 0), [0, 2, 4]),
        ([1, 5, 6, 7, 2], 1, 2, Borders("window"), [0, 5]),
        ([5, 6, 7], 1, None, Borders("window"), [0, 3]),
    ],
)
def test_the_rule_of_a_file_and_its_documents(opened, tokens, bos, eos, borders, begins):
    file, shards = opened(tokens)
    assert find_borders(file, shards, bos, eos) == borders
    assert begins_in(borders, shards, 0, len(tokens)).tolist() == begins


@pytest.mark.parametrize("borders", [Borders("begin", 1), Borders("end", 1), Borders("window")])
def test_parts_have_every_document_once(opened, borders, monkeypatch):
    monkeypatch.setattr(token_borders, "WINDOW", 30)
    monkeypatch.setattr(token_borders, "_BLOCK", 16)
    tokens = np.random.default_rng(0).integers(1, 25, 500)
    _, shards = opened(tokens)
    whole = begins_in(borders, shards, 0, 500)
    keys = document_keys(shards, whole)
    expected = [
        hashlib.blake2b(tokens[a:b].astype("<u4").tobytes(), digest_size=16) for a, b in itertools.pairwise(whole)
    ]
    assert [key.astype(">u8").tobytes() for key in keys] == [each.digest() for each in expected]
    for size in (1, 7, 100, 499):
        found = []
        for begin in range(0, 500, size):
            here = begins_in(borders, shards, begin, min(begin + size, 500)).tolist()
            found += list(itertools.pairwise(here))
        assert found == list(zip(whole[:-1].tolist(), whole[1:].tolist(), strict=True))
