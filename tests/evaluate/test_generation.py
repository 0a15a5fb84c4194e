"""Generation gives `transformers.generate`'s tokens, whatever is generated beside them."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tests.evaluate.conftest import tiny_model
from tests.model.test_pretrained import FAMILIES, SHAPE, make
from workbench.evaluate.generator import Generator, Prompt
from workbench.evaluate.sampling import Sampling, choose, draw, filtered, likeliest
from workbench.evaluate.stop_strings import StopStrings, TextStream
from workbench.model import matmul
from workbench.model.decoder import Decoder
from workbench.model.init import init_weights
from workbench.model.pretrained import load_pretrained
from workbench.model.reader import Reader
from workbench.model.transformer import Transformer

LENGTHS = (1, 7, 3, 20, 7, 12, 1)
SWITCHES: list[dict[str, Any]] = [
    {},
    {"num_kv_heads": 1, "qk_norm": True},
    {"position": "learned", "mlp": "gelu", "norm": "layernorm", "tie_embeddings": True},
    {"position": "none", "parallel_residual": True, "attention_bias": "all", "mlp_bias": True},
    {"parametrisation": "complete_p", "base_width": 16, "base_layers": 1, "base_head_width": 4},
]


def random_prompts(lengths: Sequence[int] = LENGTHS, vocab_size: int = SHAPE["vocab_size"]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, vocab_size, (length,), generator=generator).tolist() for length in lengths]


def random_model(**changes: Any) -> Transformer:
    model = Transformer(tiny_model(**changes))
    init_weights(model, seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
        model.head_weight.mul_(3.0)
    return model.eval()


@torch.no_grad()
def one_by_one(model: Transformer, prompt: Sequence[int], count: int) -> list[int]:
    """Greedy tokens, the whole text anew for each."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def continued(generator: Generator, prompts: Sequence[Sequence[int]], count: int, **options: Any) -> list[list[int]]:
    return [one.tokens for one in generator.generate([Prompt(prompt, count, **options) for prompt in prompts])]


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_tokens_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    theirs, prompts = make(name, tmp_path), random_prompts()
    model = load_pretrained(tmp_path)
    count = model.config.context_tokens - max(LENGTHS) + 1  # the longest fills the context
    theirs.generation_config.eos_token_id = None
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
        expected.append(out[0, len(prompt) :].tolist())
    assert continued(Generator(model), prompts, count) == expected
    assert continued(Generator(model, sequences=3), prompts, count) == expected
    assert [continued(Generator(model), [prompt], count)[0] for prompt in prompts] == expected


@pytest.mark.parametrize("name", ["llama2", "pythia"])
def test_an_end_of_sequence_ends_a_continuation_where_transformers_does(tmp_path: Path, name: str) -> None:
    theirs, prompts = make(name, tmp_path), random_prompts()
    model = load_pretrained(tmp_path)
    free = continued(Generator(model), prompts, 20)
    places = {token: {row.index(token) for row in free if token in row} for token in itertools.chain(*free)}
    ends = sorted(places, key=lambda token: len(places[token]))[-2:]
    found = Generator(model, eos_ids=ends).generate([Prompt(prompt, 20) for prompt in prompts])
    for prompt, one in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        out = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=0,
        )
        expected = out[0, len(prompt) :].tolist()
        assert one.tokens == (expected[:-1] if one.ended == "eos" else expected)
    assert len({len(one.tokens) for one in found if one.ended == "eos"}) > 1


@pytest.mark.parametrize("way", ["prepared", "fused", "plain"])
@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_every_switch_decodes_as_the_whole_text_does(
    changes: dict[str, Any], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "_HAS_ONEDNN", way != "plain" and matmul._HAS_ONEDNN)
    if way == "fused":
        monkeypatch.setattr("workbench.model.reader.can_read", lambda _: False)
    model, prompts = random_model(**changes), random_prompts(vocab_size=512)
    expected = [one_by_one(model, prompt, 30) for prompt in prompts]
    assert continued(Generator(model), prompts, 30) == expected


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "as it is"])
@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_logits_of_a_step_are_those_of_the_whole_text(changes: dict[str, Any], prepared: bool) -> None:
    model, prompts = random_model(**changes), random_prompts(vocab_size=512)
    decoder = Decoder(model, prompts, 3, Reader(model) if prepared else None)
    further = torch.tensor(random_prompts([3] * len(prompts), 512))
    found = [decoder.read_prompts(), *(decoder.step(further[:, i]) for i in range(3))]
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            whole = model(torch.tensor([[*prompt, *further[row].tolist()]]))[0, len(prompt) - 1 :]
        torch.testing.assert_close(torch.stack([step[row] for step in found]), whole, rtol=1e-5, atol=1e-5)


def test_what_leaves_costs_nothing_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a batch has its own length: a step reads a token for every one that is left, and for no other."""
    model, prompts = random_model(), random_prompts(vocab_size=512)
    counts = [9, 1, 14, 5, 14, 2, 7]
    sizes: list[int] = []
    step = Decoder.step

    def counted(self: Decoder, tokens_B: Tensor) -> Tensor:
        sizes.append(len(tokens_B))
        return step(self, tokens_B)

    monkeypatch.setattr(Decoder, "step", counted)
    asked = [Prompt(prompt, count) for prompt, count in zip(prompts, counts, strict=True)]
    found = Generator(model).generate(asked)
    assert [one.tokens for one in found] == [one_by_one(model, *pair) for pair in zip(prompts, counts, strict=True)]
    assert sizes == [sum(count > i for count in counts) for i in range(1, max(counts))]
    assert {one.ended for one in found} == {"length"}


def test_a_text_fills_the_context_and_no_more() -> None:
    model = random_model(context_tokens=24)
    [prompt] = random_prompts([20], 512)
    assert continued(Generator(model), [prompt], 5) == [one_by_one(model, prompt, 5)]
    with pytest.raises(ValueError, match=r"20 tokens of text and 6 more exceed the model's context of 24"):
        Generator(model).generate([Prompt(prompt, 6)])


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (Prompt([], 3), "has no tokens"),
        (Prompt([3], 0), "max_tokens=0 must be at least 1"),
        (Prompt([512], 1), "token id 512 is none of the model's 512"),
        (Prompt([3], 1, stops=("x",)), "'x' need a tokenizer"),
    ],
)
def test_what_cannot_be_continued_is_refused(prompt: Prompt, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Generator(random_model()).generate([prompt])


def test_threads_change_nothing_but_the_order() -> None:
    model, prompts = random_model(), random_prompts(vocab_size=512)
    asked = [Prompt(prompt, 12, sampling=Sampling(seed=i) if i % 2 else None) for i, prompt in enumerate(prompts)]
    alone = Generator(model, sequences=2).generate(asked)
    torch.set_num_threads(2)
    try:
        assert Generator(model, sequences=2).generate(asked) == alone
        stream = Generator(model, sequences=2).stream(asked)
        next(stream)
        stream.close()  # leaves no thread behind, and the threads as they were
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_an_error_of_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = random_model(), random_prompts(vocab_size=512)
    monkeypatch.setattr(Decoder, "step", lambda *_: (_ for _ in ()).throw(RuntimeError("in a thread")))
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="in a thread"):
            continued(Generator(model, sequences=2), prompts, 5)
    finally:
        torch.set_num_threads(1)


def test_bf16_runs_and_is_close() -> None:
    model, prompts = random_model(), random_prompts(vocab_size=512)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoder = Decoder(model, prompts, 1)
        decoder.read_prompts()
        rough = decoder.step(torch.tensor([5] * len(prompts))).float()
    exact = Decoder(model, prompts, 1)
    exact.read_prompts()
    wanted = exact.step(torch.tensor([5] * len(prompts)))
    assert 0 < (rough - wanted).abs().max() < 0.05 * wanted.abs().max()
    found = continued(Generator(model, precision="bf16"), prompts, 10)
    assert [len(tokens) for tokens in found] == [10] * len(prompts)


FILTERS = [
    Sampling(0.7),
    Sampling(1.3, top_k=5),
    Sampling(1.0, top_k=1),
    Sampling(0.8, top_p=0.6),
    Sampling(1.5, top_k=20, top_p=0.9),
    Sampling(1.0, top_k=1000, top_p=0.01),
]


@pytest.mark.parametrize("sampling", FILTERS, ids=str)
def test_what_can_be_drawn_is_what_transformers_draws_from(sampling: Sampling) -> None:
    logits = 3 * torch.randn(16, 101, generator=torch.Generator().manual_seed(2))
    logits[3, 10:14] = logits[3].max()  # ties
    ids, expected = torch.zeros(16, 1, dtype=torch.long), logits.clone()
    expected = TemperatureLogitsWarper(sampling.temperature)(ids, expected)  # pyright: ignore
    if sampling.top_k is not None:
        expected = TopKLogitsWarper(sampling.top_k)(ids, expected)  # pyright: ignore
    if sampling.top_p is not None:
        expected = TopPLogitsWarper(sampling.top_p)(ids, expected)  # pyright: ignore
    assert torch.equal(filtered(logits, sampling), expected)


def test_draws_have_the_probabilities() -> None:
    logits = torch.randn(1, 20, generator=torch.Generator().manual_seed(2))
    sampling = Sampling(0.8, top_k=8)
    probabilities = filtered(logits, sampling).softmax(-1)[0]
    uniform = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    counts = draw(filtered(logits, sampling).expand(100_000, -1), uniform).bincount(minlength=20)
    torch.testing.assert_close(counts / 100_000, probabilities, rtol=0, atol=2e-5)
    edges = draw(filtered(logits, sampling).expand(2, -1), torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert (probabilities[edges] > 0).all()


def test_the_first_of_the_likeliest_is_taken() -> None:
    for size in (101, 640):
        logits = torch.randn(50, size, generator=torch.Generator().manual_seed(4)).round()
        assert likeliest(logits).tolist() == [row.index(max(row)) for row in logits.tolist()]
    mixed = [None, Sampling(0.5, top_k=1), None, Sampling(2.0, top_k=1)]
    assert torch.equal(choose(logits[:4] + torch.rand(4, 640), mixed, torch.zeros(4)) >= 0, torch.ones(4).bool())
    distinct = torch.rand(4, 640, generator=torch.Generator().manual_seed(6))
    assert torch.equal(choose(distinct, mixed, torch.full((4,), 0.9)), distinct.argmax(-1))


def test_a_draw_depends_on_its_own_seed_alone() -> None:
    model, prompts = random_model(), random_prompts(vocab_size=512)
    asked = [Prompt(prompt, 15, sampling=Sampling(seed=i % 5)) for i, prompt in enumerate(prompts)]
    whole = [one.tokens for one in Generator(model).generate(asked)]
    assert [Generator(model).generate([one])[0].tokens for one in asked] == whole
    assert [one.tokens for one in Generator(model).generate(asked[::-1])] == whole[::-1]
    again = [Prompt(prompts[0], 15, sampling=Sampling(seed=seed)) for seed in range(20)]
    assert len({tuple(one.tokens) for one in Generator(model).generate(again)}) == 20


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"temperature": 0.0}, r"temperature=0\.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, r"top_p=0\.0"),
        ({"top_p": 1.5}, r"top_p=1\.5"),
    ],
)
def test_sampling_from_nothing_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Sampling(**options)


PIECES = ["a", "b", "ab", "\n", "\n\n", "é", "\xc3", "\xa9", "St", "op", "Stop", "<s>"]


def decode(ids: Sequence[int]) -> str:
    """Pieces beside each other, of which two are halves of one character."""
    text = b"".join(PIECES[i].encode("latin-1" if PIECES[i] in "\xc3\xa9" else "utf-8") for i in ids)
    return text.decode("utf-8", errors="replace")


@pytest.mark.parametrize("stop", ["ab", "\n\n", "Stop", "é", "bSt", "\n\nSt", "bé\n"])
def test_a_stop_string_is_found_wherever_tokens_begin_and_end(stop: str) -> None:
    ids = [i for i in range(len(PIECES)) if PIECES[i] != "é"]
    for tokens in itertools.product(ids, repeat=4):
        watch = StopStrings([stop, ""], decode)
        found = next((n for n in range(1, 5) if watch.end(tokens[:n])), None)
        expected = next((n for n in range(1, 5) if stop in decode(tokens[:n])), None)
        assert found == expected, tokens


def test_a_stop_string_ends_a_continuation(checkpoints: list[Path]) -> None:
    from workbench.model.weights import load_model

    tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoints[0]))
    model = load_model(checkpoints[0])
    prompt = tokenizer.encode("def f")
    free = one_by_one(model, prompt, 12)
    text = tokenizer.decode(free)
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    [found] = Generator(model, decode=tokenizer.decode).generate([Prompt(prompt, 12, stops=(stop,))])
    first = next(n for n in range(1, 13) if stop in tokenizer.decode(free[:n]))
    assert (found.tokens, found.ended) == (free[:first], "stop")


def test_text_comes_in_whole_characters(checkpoints: list[Path]) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoints[0]))
    text = "naïve — 漢字 🙂🙂 def f(x):\n    return x"
    ids = tokenizer.encode(text)
    stream = TextStream(tokenizer.decode)
    pieces = [stream.push(token) for token in ids] + [stream.close()]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert sum(map(bool, pieces)) > 10
    cut = TextStream(tokenizer.decode)
    assert "".join([*(cut.push(token) for token in tokenizer.encode("é🙂")[:-1]), cut.close()]).startswith("é")


def test_text_before_a_stop_string_is_shown_and_nothing_of_it() -> None:
    for tokens in itertools.product(range(len(PIECES)), repeat=4):
        text = decode(tokens)
        stream = TextStream(decode, stops=["Stop", "\n\n"])
        pieces = [stream.push(token) for token in tokens] + [stream.close()]
        places = [text.find(stop) for stop in ("Stop", "\n\n") if stop in text]
        assert "".join(pieces) == text[: min(places, default=len(text))]
