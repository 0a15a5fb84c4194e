from __future__ import annotations
import dataclasses
from workbench.config.schema import CorpusConfig
from workbench.data.store import prepare, verify
from workbench.study.layout import Layout

def test_smoke(two_sources, small_tokenizer, tmp_path):
    data = dataclasses.replace(two_sources, corpus=CorpusConfig(20_000))
    p = prepare(data, small_tokenizer, Layout(tmp_path / "o"), workers=1, progress=print)
    verify(p)
    q = prepare(data, small_tokenizer, Layout(tmp_path / "p"), workers=2, progress=print)
    assert p.manifest["files"] == q.manifest["files"]
    print(p.manifest)
    print(list(p.directory.rglob("*")))
