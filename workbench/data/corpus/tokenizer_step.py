"""Step 5 of a corpus, one task: the tokenizer, trained on the first texts of every source or taken from a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data import tokenizer as tokenizers
from workbench.data.carried_tokens import write_named
from workbench.data.corpus.cleaning import Cleaner
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.special_tokens import SpecialTokens, choose, own_template


def make(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Write the tokenizer; what the store needs to know of it is returned.

    Raises
    ------
    ValueError
        As `workbench.data.tokenizer.make_tokenizer`.
    """
    config = corpus.tokenizer
    texts: list[str] = []
    if config.kind == "bpe":
        cleaner = Cleaner(corpus)
        quota = config.train_bytes // len(corpus.data.sources)
        texts = [text for name in sorted(corpus.data.sources) for text in _sample(corpus, name, quota, cleaner)]
    trained = tokenizers.make_tokenizer(config, texts)
    facts = tokenizers.save(trained, scratch / "tokenizer", choose(config), own_template(config))
    if config.kind == "file":
        write_named(Path(str(config.path)).expanduser(), scratch / "tokenizer")
    return {
        "tokenizer": {
            "vocab_size": facts.vocab_size,
            "bos_id": facts.bos_id,
            "eos_id": facts.eos_id,
            "special": asdict(facts.special),
        },
        "dtype": "<u2" if facts.vocab_size <= 65536 else "<u4",
    }


def _sample(corpus: Corpus, source: str, quota: int, cleaner: Cleaner) -> Iterator[str]:
    """Yield the first pieces of a source, until they have `quota` bytes, whatever its cap."""
    taken = 0
    for shard in corpus.shards_of(source):
        for batch in cleaner.clean(shard):
            for piece in (piece for cleaned in batch for piece in cleaned.pieces):
                if taken >= quota:
                    return
                yield piece
                taken += len(piece.encode())


def read_facts(corpus: Corpus) -> tuple[tokenizers.TokenizerFacts, np.dtype[Any]]:
    """Read what the task left."""
    facts = corpus.folder.read_record("tokenizer/all").facts
    described = {**facts["tokenizer"], "special": SpecialTokens(**facts["tokenizer"]["special"])}
    return tokenizers.TokenizerFacts(**described), np.dtype(facts["dtype"])
