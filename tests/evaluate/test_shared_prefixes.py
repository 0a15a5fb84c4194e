"""What requests have in common is read once, and no score shows it."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer

from tests.evaluate.conftest import embedded, heldout_texts, tiny_model, write_checkpoint
from tests.evaluate.test_lm import ours, requests, theirs
from tests.model.test_pretrained import FAMILIES, make
from tests.model.test_transformer import BASE, SWITCHES, make_model, random_tokens
from workbench.config.schema import SuiteConfig
from workbench.evaluate import shared_prefixes
from workbench.evaluate.lm import WorkbenchLM
from workbench.evaluate.reconcile import Evaluator
from workbench.evaluate.scoring import CPU_TOKENS, Row, Scorer
from workbench.evaluate.shared_prefixes import Stem, TokenTree, packed, plan
from workbench.evaluate.suite import resolve_suite
from workbench.evaluate.tasks import load_task, score_task
from workbench.model.attention import tree_mask
from workbench.model.past import Past
from workbench.model.reader import Reader
from workbench.model.transformer import Transformer
from workbench.model.weights import any_config, load_any
from workbench.study.evaluation_files import documents_path
from workbench.study.layout import Layout


def alike_rows(vocabulary: int, seed: int = 0) -> list[Row]:
    """Rows of two tasks' examples, documents and endings, with all that can coincide; 24 tokens at most are read."""
    draw = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(vocabulary) for _ in range(count)]

    rows = []
    for examples in (tokens(9), tokens(5), []):
        for context in (tokens(6), tokens(4), tokens(4), tokens(1)):
            endings = [tokens(n) for n in (1, 1, 3, 5)]
            endings += [endings[-1][:3], [*endings[-1], *tokens(2)], endings[0]]  # beginnings of others, and the same
            rows += [Row(examples + context + ending, len(ending)) for ending in endings]
    rows += [Row(row.tokens, len(row.tokens) - 1) for row in rows[::5]]  # the same tokens with more of them scored
    return rows + rows[:3] + [Row(tokens(2), 1), Row(tokens(25), 24), Row(tokens(25), 1)]


def one_by_one(model: Transformer, rows: list[Row]) -> tuple[list[float], list[bool]]:
    """Scores from the whole logits of each row by itself."""
    sums, greedy = [], []
    for row in rows:
        with torch.no_grad():
            logprobs = model(torch.tensor([row.tokens[:-1]]))[0].double().log_softmax(-1)[-row.scored :]
        targets = torch.tensor(row.tokens[-row.scored :])
        sums.append(float(logprobs.gather(1, targets[:, None]).sum()))
        greedy.append(bool((logprobs.argmax(-1) == targets).all()))
    return sums, greedy


@pytest.fixture(params=[(256, 16), (0, 1), (-1000, 1)], ids=["few stems", "more stems", "all stems"])
def _stems(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How readily beginnings are kept: as they are, or in texts as short as these too."""
    monkeypatch.setattr(shared_prefixes, "PASS_TOKENS", request.param[0])
    monkeypatch.setattr(shared_prefixes, "STEM_TOKENS", request.param[1])


@pytest.fixture(name="read_alone", scope="module")
def fixture_read_alone() -> Callable[[dict[str, Any]], tuple[Transformer, list[Row], list[float], list[bool]]]:
    """Make a model with some switches, and score rows one by one, once for all tests: call it with the switches."""
    made: dict[str, tuple[Transformer, list[Row], list[float], list[bool]]] = {}

    def read(changes: dict[str, Any]) -> tuple[Transformer, list[Row], list[float], list[bool]]:
        if str(changes) not in made:
            model, rows = make_model(**changes), alike_rows(BASE.vocab_size)
            made[str(changes)] = (model, rows, *one_by_one(model, rows))
        return made[str(changes)]

    return read


@pytest.mark.usefixtures("_stems")
@pytest.mark.parametrize("batch_tokens", [16, 10_000])
@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_every_switch_scores_as_row_by_row(changes: dict[str, Any], batch_tokens: int, read_alone) -> None:
    model, rows, sums, greedy = read_alone(changes)
    found = Scorer(model, batch_tokens).score(rows)
    assert [score.loglikelihood for score in found] == pytest.approx(sums, abs=2e-5)
    assert [score.is_greedy for score in found] == greedy


@pytest.fixture(name="family", scope="module", params=FAMILIES)
def fixture_family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Row], list[tuple[float, bool]]]:
    """A checkpoint of a family, rows, and what `transformers` scores them."""
    directory = tmp_path_factory.mktemp("family")
    reference = make(request.param, directory)
    rows = alike_rows(any_config(directory).vocab_size)
    scores = []
    for row in rows:
        with torch.no_grad():
            logits = reference(torch.tensor([row.tokens[:-1]])).logits
        logprobs = logits[0].log_softmax(-1)[-row.scored :]
        targets = torch.tensor(row.tokens[-row.scored :])
        greedy = bool((logprobs.argmax(-1) == targets).all())
        scores.append((float(logprobs.gather(1, targets[:, None]).sum()), greedy))
    return directory, rows, scores


@pytest.mark.usefixtures("_stems")
def test_every_family_scores_as_transformers_does(family: tuple[Path, list[Row], list[tuple[float, bool]]]) -> None:
    directory, rows, scores = family
    found = Scorer(load_any(directory), 512).score(rows)
    assert [score.loglikelihood for score in found] == pytest.approx([sums for sums, _ in scores], abs=1e-4)
    assert [score.is_greedy for score in found] == [greedy for _, greedy in scores]


@pytest.mark.usefixtures("_stems")
def test_neither_order_nor_repetition_changes_a_bit() -> None:
    model, rows = make_model(), alike_rows(BASE.vocab_size)
    found = Scorer(model, 64).score(rows)
    order = random.Random(1).sample(range(len(rows)), len(rows))
    again = Scorer(model, 64).score([rows[i] for i in order] + rows[:9])
    assert again[: len(rows)] == [found[i] for i in order]
    assert again[len(rows) :] == found[:9]


def test_other_requests_change_rounding_alone() -> None:
    model, rows = make_model(), alike_rows(BASE.vocab_size)
    whole = Scorer(model, 64).score(rows)
    for some in (rows[:1], rows[::3], rows[40:60]):
        places = [rows.index(row) for row in some]
        found = [score.loglikelihood for score in Scorer(model, 64).score(some)]
        assert found == pytest.approx([whole[i].loglikelihood for i in places], abs=2e-5)


def test_each_tokens_score_is_that_of_its_row() -> None:
    model, rows = make_model(), alike_rows(BASE.vocab_size)
    sums = [score.loglikelihood for score in Scorer(model, 64).score(rows)]
    each = Scorer(model, 64).logprobs(rows)
    assert [len(logprobs) for logprobs in each] == [row.scored for row in rows]
    assert [float(logprobs.sum()) for logprobs in each] == sums
    assert Scorer(model, 64).score([]) == []


@pytest.mark.usefixtures("_stems")
def test_bf16_scores_are_about_those_of_fp32() -> None:
    model, rows = make_model(), alike_rows(BASE.vocab_size)
    sums, _ = one_by_one(model, rows)
    found = [score.loglikelihood for score in Scorer(model, 64, "bf16").score(rows)]
    assert found == pytest.approx(sums, rel=0.05, abs=0.1)


def test_a_model_without_masks_reads_whole_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `flash_attn` is; the blocks here stay as they are, since that needs a GPU."""
    model, rows = make_model(), alike_rows(BASE.vocab_size)
    model.backend = "flash_attn"
    refuse = "workbench.evaluate.scoring.tree_mask"
    monkeypatch.setattr(refuse, lambda *_: pytest.fail("a mask"))
    found = [score.loglikelihood for score in Scorer(model, 64).score(rows)]
    assert found == pytest.approx(one_by_one(model, rows)[0], abs=2e-5)


@pytest.mark.usefixtures("_stems")
def test_masks_too_large_are_avoided(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little memory there is for masks, every row is read."""
    model, rows = make_model(), alike_rows(BASE.vocab_size)
    sums, _ = one_by_one(model, rows)
    sizes = []
    monkeypatch.setattr(
        "workbench.evaluate.scoring.tree_mask",
        lambda *arguments: sizes.append((mask := tree_mask(*arguments)).numel()) or mask,
    )
    for largest in (1, 300):
        sizes.clear()
        for module in ("shared_prefixes", "scoring"):
            monkeypatch.setattr(f"workbench.evaluate.{module}.LARGEST_MASK", largest)
        found = [score.loglikelihood for score in Scorer(model, 10_000).score(rows)]
        assert found == pytest.approx(sums, abs=2e-5)
        # Packing short rows under a stem may go beyond the bound by what it packs.
        assert max(sizes, default=0) <= max(largest, 64 * (64 + 24))


def all_stems(stem: Stem) -> list[Stem]:
    return [stem, *(one for longer in stem.stems for one in all_stems(longer))]


def read_tokens(tree: TokenTree, root: Stem) -> int:
    """Tokens that a plan has the model read."""
    total = 0
    for stem in all_stems(root):
        total += sum(tree.tokens(*part, stem.depth) for part in packed(tree, stem))
        total += sum(longer.depth - stem.depth for longer in stem.stems)
    return total


def test_examples_are_read_once_a_task_and_contexts_once_a_document() -> None:
    draw = np.random.default_rng(0)
    examples = draw.integers(9, 4000, 500).tolist()
    texts, distinct = [], len(examples)
    for first in range(100):
        context = [first, *draw.integers(9, 4000, 79).tolist()]
        endings = [[ending, *draw.integers(9, 4000, 23).tolist()] for ending in range(4)]
        texts += [examples + context + ending for ending in endings]
        distinct += len(context) + sum(map(len, endings))
    tree = TokenTree(texts, [25] * len(texts))
    root = plan(tree, width=384)
    assert [stem.depth for stem in all_stems(root)] == [0, 500]
    assert read_tokens(tree, root) == distinct == tree.tokens(0, len(tree), 0)
    assert len(root.stems[0].rows) == 100
    assert read_tokens(tree, plan(tree, 384, share=False)) == sum(map(len, texts))


def test_texts_with_nothing_in_common_are_rows_of_their_own() -> None:
    texts = [[7, first, *range(50)] for first in range(300)]  # but for the token that begins a text
    tree = TokenTree(texts, [3] * len(texts))
    root = plan(tree, width=384)
    assert not root.stems
    assert sorted(root.rows) == [(i, i + 1) for i in range(300)]
    assert not any(tree.branches(*part) for part in root.rows)


def test_a_row_is_in_depth_first_order() -> None:
    tree = TokenTree([[1, 2, 3], [1, 2, 4, 5], [1, 6], [1, 2]], [1, 2, 2, 1])
    assert [tree.branches(0, last) for last in (1, 2, 3, 4)] == [False, False, True, True]
    laid = tree.lay_out(0, 4, 0)
    assert laid.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert laid.positions.tolist() == [0, 1, 2, 2, 3, 1]
    assert laid.ends.tolist() == [6, 5, 3, 5, 5, 6]
    assert dict(zip(laid.slots.tolist(), laid.places.tolist(), strict=True)) == {0: 2, 1: 3, 2: 4, 3: 0, 4: 5, 5: 1}
    seen = tree_mask(torch.tensor(laid.ends)[None], 0, torch.float32)[0, 0] == 0
    assert [row.nonzero()[:, 0].tolist() for row in seen] == [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 3, 4], [0, 5]]


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_hidden_states_after_a_past_are_those_of_the_whole(changes: dict[str, Any]) -> None:
    model, tokens = make_model(**changes), random_tokens()
    tokens[1, :10] = tokens[0, :10]
    with torch.no_grad():
        whole = model.hidden(tokens)
        growing = [Past(grows=True) for _ in model.blocks]
        first = model.hidden(tokens[:1, :10], pasts=growing)
        ends, positions = torch.full((2, 14), 14), torch.arange(10, 24).expand(2, -1)
        mask = tree_mask(ends, 10, torch.float32)
        rest = model.hidden(tokens[:, 10:], positions, mask_B1TS=mask, pasts=[past.whole() for past in growing])
    torch.testing.assert_close(torch.cat((first.expand(2, -1, -1), rest), dim=1), whole, atol=1e-5, rtol=1e-5)


def test_nothing_on_the_way_asks_for_values() -> None:
    """What a GPU would wait for: on the meta device there are none."""
    with torch.device("meta"):
        model = Transformer(BASE)
        growing = [Past(grows=True) for _ in model.blocks]
        model.hidden(torch.zeros(1, 5, dtype=torch.long), pasts=growing)
        mask = tree_mask(torch.full((2, 30), 30), 5, torch.float32)  # of more tokens than the context
        tokens = torch.zeros(2, 30, dtype=torch.long)
        h = model.hidden(tokens, tokens, mask_B1TS=mask, pasts=[past.whole() for past in growing])
    assert h.shape == (2, 30, BASE.width)


def test_a_cpu_reads_no_more_than_its_cache_holds() -> None:
    assert Scorer(make_model(), 10**6).batch_tokens == CPU_TOKENS
    assert Scorer(make_model().to("meta"), 10**6).batch_tokens == 10**6


def texts_alike() -> list[tuple[str, str]]:
    """Contexts and endings of real text, most of them with five examples, some too long for 256 tokens."""
    text = " ".join(heldout_texts()["prose"]).split(" ")
    words = iter(range(0, 10**6, 12))

    def some(count: int) -> str:
        start = next(words) % (len(text) - 60)
        return " ".join(text[start : start + count])

    pairs = []
    for examples in ("\n\n".join(some(12) for _ in range(5)), some(60) + some(55) + some(50), ""):
        for _ in range(4):
            context = f"{examples}\n\n{some(12)}"
            endings = [" " + some(n) for n in (1, 4, 6, 8)]
            endings += [endings[-1] + ".", endings[1], "f", "\n", "s the", endings[-1][:9]]
            pairs += [(context, ending) for ending in endings]
    return [*pairs, *[("", ending) for _, ending in pairs[:5]], ("a", " b"), ("a", " b c"), pairs[0]]


@pytest.mark.usefixtures("_stems")
@pytest.mark.parametrize("changes", [{}, {"norm": "layernorm", "mlp": "gelu", "position": "learned"}], ids=str)
def test_every_ending_equals_hf(layout: Layout, changes: dict[str, Any]) -> None:
    checkpoint = write_checkpoint(layout, 7, tiny_model(context_tokens=256, **changes))
    hf: Any = theirs(checkpoint)
    pairs = []
    for context, ending in texts_alike():
        if context == "" or hf._encode_pair(context, ending)[1]:  # else `hf` stops with an assertion
            pairs.append((context, ending))
    lengths = [len(hf.tok_encode(context + ending)) for context, ending in pairs]
    assert max(lengths) > 256 > sorted(lengths)[len(lengths) // 2]
    expected = hf.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
    for batch_tokens in (1, 300, 4096):
        found = ours(checkpoint, batch_tokens=batch_tokens).loglikelihood(requests("loglikelihood", *pairs))
        assert [s[0] for s in found] == pytest.approx([s[0] for s in expected], abs=1e-4)
        assert [s[1] for s in found] == [s[1] for s in expected]


def five_shot_suite(folder: Path) -> SuiteConfig:
    """A task of four endings with five examples, the same for every document."""
    words = " ".join(heldout_texts()["prose"]).split()
    for split, count in (("test", 12), ("train", 5)):
        rows = [words[40 * i : 40 * i + 40] for i in range(17 - count if split == "test" else 12, 17)][:count]
        documents = [
            {"context": " ".join(row[:8]), "endings": [" ".join(row[n : n + 6]) for n in (8, 16, 24, 32)], "answer": 0}
            for row in rows
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, documents)) + "\n")
    files = {split: str(folder / f"{split}.jsonl") for split in ("test", "train")}
    lines = {
        "task": "made",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        "fewshot_split": "train",
        "fewshot_config": {"sampler": "first_n"},
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "endings",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "made.yaml").write_text(json.dumps(lines))  # which is YAML
    return SuiteConfig("made", ["made"], include_path=str(folder), num_fewshot=5, batch_tokens=512)


def test_a_five_shot_task_equals_hf(layout: Layout, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(layout, 7, tiny_model(context_tokens=1024))
    suite = five_shot_suite(tmp_path)
    (spec,) = resolve_suite(suite, [])
    found = {}
    for lm in (ours(checkpoint), theirs(checkpoint)):
        scored = score_task(load_task(spec, suite, {}), "made", lm, suite)
        found[type(lm)] = [pair for sample in scored["samples"]["made"] for pair in sample["filtered_resps"]]
    mine, hf = found[WorkbenchLM], found[HFLM]
    assert len(mine) == 48
    assert [float(s) for s, _ in mine] == pytest.approx([float(s) for s, _ in hf], abs=1e-4)
    assert [flag for _, flag in mine] == [flag for _, flag in hf]


def test_two_evaluations_record_the_same_values(layout: Layout) -> None:
    """To the last bit, with two threads as with a fresh process's caches."""
    checkpoint = write_checkpoint(layout, 7, tiny_model())
    results = []
    for _ in range(2):
        path = Evaluator(layout, embedded(), threads=2).evaluate(checkpoint, "embedded")
        results.append((json.loads(path.read_text())["results"], documents_path(path).read_bytes()))
        path.unlink()
    assert results[0] == results[1]


def test_the_adapter_reads_each_context_once(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_checkpoint(layout, 7, tiny_model())
    lm = WorkbenchLM(load_any(checkpoint), AutoTokenizer.from_pretrained(str(checkpoint)), batch_tokens=4096)
    read = []
    hidden = Reader.hidden
    monkeypatch.setattr(
        Reader,
        "hidden",
        lambda self, tokens, *a, **k: read.append(tokens.numel()) or hidden(self, tokens, *a, **k),
    )
    context, endings = "def f(self, name, value):", [" return", " pass", " import os", " raise"]
    lm.loglikelihood(requests("loglikelihood", *[(context, ending) for ending in endings]))
    inputs = [len(lm.tok_encode(ending)) - 1 for ending in endings]
    assert sum(read) == len(lm.tok_encode(context)) + sum(inputs)
