"""Bits per byte by position: what a plain computation gives, stored and named as any metric."""

import json
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.evaluate.conftest import DATA, embedded, tiny_model, write_checkpoint
from workbench.config.schema import EvaluationConfig, SuiteConfig
from workbench.evaluate.position_suite.positions import bucket_name, bucket_sums, filled_buckets
from workbench.evaluate.reconcile import Evaluator
from workbench.model.weights import load_model
from workbench.study.evaluation_files import documents_path
from workbench.study.layout import Layout
from workbench.tracking.intended import read_evaluation

SUITE = SuiteConfig(name="positions", tasks=["position_{source}"], include_path="positions", batch_tokens=1024)
POSITIONS = EvaluationConfig(suites={"positions": SUITE})


def plain_sums(layout: Layout, checkpoint: Path, source: str) -> dict[str, list[tuple[float, int]]]:
    """Log-likelihood and bytes of each document in each bucket, one document at a time through the whole logits."""
    model, tokenizer = load_model(checkpoint), PreTrainedTokenizerFast.from_pretrained(checkpoint)
    found = defaultdict(list)
    for line in (layout.data(DATA) / "heldout" / f"{source}.jsonl").read_text().splitlines():
        text = json.loads(line)["text"]
        ids = tokenizer.encode(text, add_special_tokens=False)[: model.config.context_tokens]
        with torch.no_grad():
            logprobs = model(torch.tensor([[0, *ids[:-1]]]))[0].log_softmax(-1)
        scores = logprobs[torch.arange(len(ids)), torch.tensor(ids)].double()
        for first, last in ((0, 16), (16, 32), (32, 64), (64, 128)):
            if last <= len(ids):
                size = len(tokenizer.decode(ids[:last]).encode()) - len(tokenizer.decode(ids[:first]).encode())
                found[f"{first:04d}-{last - 1:04d}"].append((float(scores[first:last].sum()), size))
    return found


def test_it_is_what_a_plain_computation_gives(layout: Layout, checkpoints: list[Path]) -> None:
    path = Evaluator(layout, POSITIONS).evaluate(checkpoints[0], "positions")
    values = read_evaluation(path).values
    assert set(values) == {
        f"position/{source}/{bucket}/bits_per_byte{error}"
        for source in ("code", "prose")
        for bucket in ("0000-0015", "0016-0031", "0032-0063")  # the context is 96: 64-127 is not filled
        for error in ("", "_stderr")
    }
    for source in ("code", "prose"):
        for bucket, sums in plain_sums(layout, checkpoints[0], source).items():
            y, x = np.array(sums).T
            bits = -y.sum() / x.sum() / math.log(2)
            assert values[f"position/{source}/{bucket}/bits_per_byte"] == pytest.approx(bits, abs=1e-5)
            error = np.sqrt(len(x) / (len(x) - 1) * ((y + bits * math.log(2) * x) ** 2).sum()) / x.sum() / math.log(2)
            assert values[f"position/{source}/{bucket}/bits_per_byte_stderr"] == pytest.approx(error, rel=1e-4)


def test_documents_are_kept_and_short_ones_are_missing(layout: Layout) -> None:
    heldout = layout.data(DATA) / "heldout" / "prose.jsonl"
    with heldout.open("a") as file:
        file.write(json.dumps({"id": "short", "text": "Only these few words, which are no forty."}) + "\n")
    checkpoint = write_checkpoint(layout, 3, tiny_model(context_tokens=256))
    path = Evaluator(layout, POSITIONS).evaluate(checkpoint, "positions")
    columns = json.loads(documents_path(path).read_text())["position_prose"]
    place = columns["doc_id"].index("short")
    assert columns["0000-0015/bytes"][place] > 0
    assert columns["0032-0063/bytes"][place] is None
    assert columns["0128-0255/bytes"][place] is None
    known = [value for value in columns["0128-0255/bytes"] if value is not None]
    assert len(known) == len(columns["doc_id"]) - 1
    for bucket, sums in plain_sums(layout, checkpoint, "prose").items():
        stored = [value for value in columns[f"{bucket}/bytes"] if value is not None]
        assert sorted(stored) == sorted(size for _, size in sums)


def test_a_bucket_without_documents_is_missing() -> None:
    tokens = [(-1.0, 2)] * 40
    assert bucket_sums(tokens) == {"0000-0015/bits_per_byte": (-16.0, 32), "0016-0031/bits_per_byte": (-16.0, 32)}
    assert bucket_sums(tokens[:15]) == {}
    assert [bucket_name(bucket) for bucket in filled_buckets(64)] == ["0000-0015", "0016-0031", "0032-0063"]


def test_other_suites_keep_their_ids(layout: Layout, checkpoints: list[Path]) -> None:
    """The two folders of tasks are hashed apart."""
    both = replace(embedded(), suites={**embedded().suites, **POSITIONS.suites})
    alone = Evaluator(layout, embedded()).evaluate(checkpoints[1], "embedded")
    assert Evaluator(layout, both).evaluate(checkpoints[1], "embedded") == alone
    assert Evaluator(layout, both).evaluate(checkpoints[1], "positions").name.startswith("positions-")
