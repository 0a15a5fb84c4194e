"""Step 8 of a corpus, one task: what the shards' tasks noted, put together for people to read.

removed/samples.jsonl    samples of what was dropped, by cause (see `workbench.data.corpus.removed_samples`)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.removed_samples import RemovedSamples


def summarise(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Write the files; nothing is returned."""
    samples = RemovedSamples()
    for path in sorted(corpus.place("samples").iterdir()):
        samples = samples.merge(RemovedSamples.read(path))
    (scratch / "removed").mkdir()
    samples.write(scratch / "removed" / "samples.jsonl")
    return {}
