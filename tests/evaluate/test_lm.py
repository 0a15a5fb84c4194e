"""The adapter gives what lm-eval's own `hf` model gives."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

import workbench.model.hf  # noqa: F401  registers the model type for what Llama cannot represent
from tests.evaluate.conftest import EMBEDDED_TASKS, embedded, tiny_model, write_checkpoint
from workbench.config.schema import SuiteConfig
from workbench.evaluate.document_values import document_values
from workbench.evaluate.generate import Asked, generate
from workbench.evaluate.lm import WorkbenchLM
from workbench.evaluate.suite import resolve_suite
from workbench.evaluate.tasks import load_task, score_task
from workbench.model.generation_file import read_stop_ids, write_generation_config
from workbench.model.reader import Reader
from workbench.model.transformer import Transformer
from workbench.model.weights import load_model
from workbench.study.layout import Layout

MODELS = {
    "grouped-query": {},
    "multi-head, tied": {"num_kv_heads": 4, "tie_embeddings": True},
    "not a Llama": {"norm": "layernorm", "mlp": "gelu", "qk_norm": True, "num_kv_heads": 1},
}


def ours(checkpoint: Path, **options: Any) -> WorkbenchLM:
    tokenizer = AutoTokenizer.from_pretrained(str(checkpoint))
    return WorkbenchLM(load_model(checkpoint), tokenizer, **({"batch_tokens": 512} | options))


def theirs(checkpoint: Path, **options: Any) -> HFLM:
    return HFLM(pretrained=str(checkpoint), device="cpu", dtype="float32", batch_size=8, **options)


def score(lm: Any, layout: Layout, suite: SuiteConfig, data: str) -> tuple[dict[str, Any], dict[str, Any]]:
    metadata = {"heldout_dir": str(layout.data(data) / "heldout")}
    results, documents = {}, {}
    for spec in resolve_suite(suite, ["code", "prose"]):
        scored = score_task(load_task(spec, suite, metadata), spec.name, lm, suite)
        results |= scored["results"]
        documents[spec.name] = document_values(scored["samples"][spec.name])
    return results, documents


def add_bos(checkpoint: Path) -> None:
    """Let the tokenizer put BOS before every text, as Llama 2's does."""
    path = checkpoint / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    special = {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}
    bos, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    other = {"Sequence": {"id": "B", "type_id": 1}}
    template = {"type": "TemplateProcessing", "single": [bos, text], "pair": [bos, text, other]}
    tokenizer["post_processor"] = template | {"special_tokens": special}
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("with_bos", [False, True], ids=["plain", "adds BOS"])
@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_every_score_equals_hf(layout: Layout, changes: dict[str, Any], with_bos: bool) -> None:
    checkpoint = write_checkpoint(layout, 7, tiny_model(**changes))
    if with_bos:
        add_bos(checkpoint)
    suite = embedded(limit=6).suites["embedded"]
    data = json.loads((checkpoint / "manifest.json").read_text())["data_fingerprint"]
    our_results, our_documents = score(ours(checkpoint), layout, suite, data)
    their_results, their_documents = score(theirs(checkpoint), layout, suite, data)
    if with_bos:  # left to itself, `hf` puts a second BOS before a whole text, and has the text pay for it
        plain_results, plain_documents = score(theirs(checkpoint, add_bos_token=False), layout, suite, data)
        whole = ["heldout_code", "heldout_prose"]
        assert all(plain_documents[task] != their_documents[task] for task in whole)
        their_results |= {task: plain_results[task] for task in whole}
        their_documents |= {task: plain_documents[task] for task in whole}
    assert len(our_results) == 2 * len(EMBEDDED_TASKS)
    assert our_results.keys() == their_results.keys()
    for task, metrics in our_results.items():
        for name, value in metrics.items():
            expected = their_results[task][name]
            expected = expected if isinstance(expected, str) else pytest.approx(expected, rel=1e-6, abs=1e-6)
            assert value == expected, (task, name)
    for task, columns in our_documents.items():
        for name, values in columns.items():
            expected = their_documents[task][name]
            # Sums over whole documents are thousands of nats, of which fp32 holds seven digits.
            assert values == (pytest.approx(expected, abs=1e-4, rel=1e-7) if name == "loglikelihood" else expected)


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=a, idx=0) for a in arguments]  # type: ignore[arg-type]


PAIRS = [("", "def f"), ("", "<s>"), ("return ", "None"), ("<s>import", " os"), ("a b c " * 80, "the end"), ("x", "y")]


def test_loglikelihoods_equal_hf_in_odd_cases(checkpoints: list[Path]) -> None:
    """Empty context, context that begins with BOS or ends in a space, context longer than the model's."""
    pairs = [pair for pair in PAIRS if pair != ("", "<s>")]
    expected = theirs(checkpoints[0]).loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
    for batch_tokens in (1, 512):
        found = ours(checkpoints[0], batch_tokens=batch_tokens).loglikelihood(requests("loglikelihood", *pairs))
        assert [s[0] for s in found] == pytest.approx([s[0] for s in expected], abs=1e-4)
        assert [s[1] for s in found] == [s[1] for s in expected]


ODD_PAIRS = [("a ", ""), ("x", " "), ("sel", "f.x"), ("", "<s>x"), ("<s>", "x"), ("a b c " * 80, " d e f" * 20)]
SWALLOWED = [("retur", "n"), ("x = sel", "f"), ("<s>retur", "n"), ("a b c " * 80 + "retur", "n")]


@pytest.mark.parametrize("with_bos", [False, True], ids=["plain", "adds BOS"])
def test_continuations_that_merge_with_their_context(checkpoints: list[Path], with_bos: bool) -> None:
    """Equal to `hf` where it scores; where its own cut leaves it nothing, to its score of the continuation alone."""
    if with_bos:
        add_bos(checkpoints[0])
    lm, hf = ours(checkpoints[0]), theirs(checkpoints[0])
    alone = []
    for context, continuation in SWALLOWED:
        context_ids, nothing = hf._encode_pair(context, continuation)
        assert nothing == []
        with pytest.raises(AssertionError):
            hf.loglikelihood(requests("loglikelihood", (context, continuation)), disable_tqdm=True)
        alone.append((("", ""), context_ids, hf.tok_encode(continuation, add_special_tokens=False)))
    white = [("  ", "x"), ("\n", "y"), ("  ", "")] if with_bos else []
    expected = hf.loglikelihood(requests("loglikelihood", *ODD_PAIRS, *white), disable_tqdm=True)
    expected += hf._loglikelihood_tokens(alone, disable_tqdm=True)
    found = lm.loglikelihood(requests("loglikelihood", *ODD_PAIRS, *white, *SWALLOWED))
    assert [s[0] for s in found] == pytest.approx([s[0] for s in expected], abs=1e-4)
    assert [s[1] for s in found] == [s[1] for s in expected]
    assert lm.encoded_alone == len(SWALLOWED)


def test_a_context_of_white_space_alone_is_an_empty_one(checkpoints: list[Path]) -> None:
    """Its spaces belong to the continuation, so that the token before a text stands before them."""
    lm = ours(checkpoints[0])
    pairs = [("  ", "x"), ("\n", "y"), ("  ", "")]
    found = lm.loglikelihood(requests("loglikelihood", *pairs, *[("", a + b) for a, b in pairs]))
    assert found[:3] == found[3:]
    (text,) = lm.generate_until(requests("generate_until", ("", {"until": [], "max_gen_toks": 3})))
    (same,) = lm.generate_until(requests("generate_until", ("<s>", {"until": [], "max_gen_toks": 3})))
    assert text == same


@pytest.mark.parametrize(
    ("kind", "arguments", "reason"),
    [
        ("loglikelihood", ("a", ""), r"the continuation has no tokens: there is nothing to score; 'a', ''$"),
        ("loglikelihood", ("", ""), r"the continuation has no tokens: there is nothing to score; '', ''$"),
        ("loglikelihood", ("", "<s>"), r"the continuation has no tokens: there is nothing to score; '', '<s>'$"),
        (
            "loglikelihood",
            ("a", " b" * 100),
            r"a continuation of \d+ tokens in a context of 96; 'a', '\.\.\.( b){30}'$",
        ),
        (
            "generate_until",
            ("a", {"until": [], "max_gen_toks": 400}),
            r"max_gen_toks=400 leaves no room for a text in a context of 96 tokens; 'a'$",
        ),
        (
            "generate_until",
            ("a", {"max_gen_toks": 4, "num_beams": 3}),
            r"option num_beams=3 is not supported, .*; 'a'$",
        ),
        ("generate_until", ("a", {"max_gen_toks": 4, "do_sample": True}), r"temperature=0\.0 must be above 0.*; 'a'$"),
    ],
)
def test_what_cannot_be_scored_is_named(checkpoints: list[Path], kind: str, arguments: Any, reason: str) -> None:
    (request,) = requests(kind, arguments)
    request.task_name, request.doc_id, request.doc = "odd", 17, {"id": "seventeen"}
    with pytest.raises(ValueError, match=r"^document 17 \(id 'seventeen'\) of task odd: .*" + reason):
        getattr(ours(checkpoints[0]), kind)([request])


def next_token(lm: WorkbenchLM, tokens: list[int]) -> int:
    """The most likely token after a text, which the model reads anew."""
    with torch.inference_mode():
        return int(lm.scorer.model(torch.tensor([tokens]))[0, -1].argmax())


def test_what_reads_for_the_model_is_made_once(checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Reader] = []
    prepare = Reader.__init__

    def counted(self: Reader, model: Transformer) -> None:
        made.append(self)
        prepare(self, model)

    monkeypatch.setattr(Reader, "__init__", counted)
    lm = ours(checkpoints[0])
    assert not made  # before anything is read
    lm.loglikelihood(requests("loglikelihood", ("def f", "(self)")))
    lm.generate_until(requests("generate_until", ("def f", {"until": [], "max_gen_toks": 3})))
    lm.loglikelihood(requests("loglikelihood", ("def g", "(self)")))
    assert made == [lm.scorer.reader]
    assert lm.generator.reader is lm.scorer.reader
    assert ours(checkpoints[0], precision="bf16").scorer.reader is None


def test_greedy_continuations_are_recognised(checkpoints: list[Path]) -> None:
    lm = ours(checkpoints[0])
    (text,) = lm.generate_until(requests("generate_until", ("def f", {"until": [], "max_gen_toks": 3})))
    tokens = lm.tok_encode("def f")
    greedy = []
    for _ in range(3):
        greedy.append(next_token(lm, tokens + greedy))
    assert text == lm.tokenizer.decode(greedy)
    ((_, right),) = lm._loglikelihood_tokens([(("", ""), tokens, greedy)])
    ((_, wrong),) = lm._loglikelihood_tokens([(("", ""), tokens, [*greedy[:2], (greedy[2] + 1) % 512])])
    assert (right, wrong) == (True, False)


def test_generating_stops_at_every_id_that_the_checkpoint_names(checkpoints: list[Path], tmp_path: Path) -> None:
    """As that of a tuned model, whose turns end with another token than texts do."""
    tuned = shutil.copytree(checkpoints[0], tmp_path / "tuned")
    tokenizer = AutoTokenizer.from_pretrained(str(tuned))
    model: Any = AutoModelForCausalLM.from_pretrained(tuned)

    def stop_early(ids: list[int]) -> tuple[str, str]:
        """Have the checkpoint stop at a later token of what it writes; what it should write until there."""
        written = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :].tolist()
        end = next(one for one in written[1:] if one != written[0])
        (tuned / "generation_config.json").unlink()
        write_generation_config(tuned, 0, 1, [end])
        assert read_stop_ids(tuned) == [1, end]
        return tokenizer.decode(written[: written.index(end)]), tokenizer.decode(end)

    ids, request = tokenizer("def f").input_ids, requests("generate_until", ("def f", {"until": [], "max_gen_toks": 8}))
    before, end = stop_early(ids)
    (expected,) = theirs(tuned).generate_until(request, disable_tqdm=True)
    (stopped,) = ours(tuned, stop_ids=read_stop_ids(tuned)).generate_until(request)
    assert before == stopped == expected.removesuffix(end)
    assert ours(tuned).generate_until(request) != [before]
    before, end = stop_early([0, *ids])
    written: list[str] = []
    generate(tuned, ["def f"], Asked(max_tokens=8), written.append)
    assert "".join(written) == "def f" + before + "\n"


def test_generated_text_equals_hf(checkpoints: list[Path]) -> None:
    options = {"until": ["\n\n"], "max_gen_toks": 20}
    arguments = [("def f(self", options), ("Return the", options), ("import os " * 60, options)]
    expected = [
        theirs(checkpoints[0]).generate_until(requests("generate_until", a), disable_tqdm=True) for a in arguments
    ]
    assert ours(checkpoints[0]).generate_until(requests("generate_until", *arguments)) == [e[0] for e in expected]


def test_generated_texts_are_those_of_one_token_after_the_other(checkpoints: list[Path]) -> None:
    """Contexts of many lengths in one batch, against the whole text anew for each token."""
    lm = ours(checkpoints[0])
    contexts = ["", "def f", "import os " * 60, "Return the", "a b c " * 20, "x = self.", "class A:"]
    stops = [" ", "e", "\n\n", "re", "zzz"]
    expected = []
    for context in contexts:
        tokens, made = list(lm.tok_encode(context) or [0])[-(96 - 20) :], []
        while len(made) < 20 and not any(stop in lm.tokenizer.decode(made) for stop in stops):
            made.append(next_token(lm, tokens + made))
            if made[-1] == 1:
                made.pop()
                break
        text = lm.tokenizer.decode(made, skip_special_tokens=True)
        expected.append(text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))])
    options = {"until": stops, "max_gen_toks": 20}
    assert lm.generate_until(requests("generate_until", *((context, options) for context in contexts))) == expected


def test_a_special_token_can_be_a_stop_sequence(checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `hf`, which looks for it in the text with special tokens; the text that is given has none."""
    lm = ours(checkpoints[0])
    tokens = iter([*lm.tok_encode("one two"), 2, *lm.tok_encode(" three")])
    monkeypatch.setattr(lm.generator, "_choose", lambda *_: torch.tensor([next(tokens)]))
    assert lm.generate_until(requests("generate_until", ("a", {"until": ["<unk>"], "max_gen_toks": 30}))) == ["one two"]


def test_a_sampled_text_depends_on_its_context_alone(checkpoints: list[Path]) -> None:
    options = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 0.9, "top_p": 0.95}
    lm = ours(checkpoints[0])
    first, second, other = lm.generate_until(requests("generate_until", *[(t, options) for t in ("a", "a", "import")]))
    assert first != second
    assert lm.generate_until(requests("generate_until", ("import", options), ("a", options))) == [other, first]
    neutral = options | {"num_beams": 1, "repetition_penalty": 1.0}
    assert lm.generate_until(requests("generate_until", ("a", neutral))) == [first]


def test_continuation_longer_than_context_is_refused(checkpoints: list[Path]) -> None:
    with pytest.raises(ValueError, match="in a context of 96"):
        ours(checkpoints[0]).loglikelihood(requests("loglikelihood", ("a", " b c d" * 100)))


def test_bf16_is_close_and_not_equal(checkpoints: list[Path]) -> None:
    pairs = requests("loglikelihood", ("import", " os"), ("Return the", " number"))
    exact = [s[0] for s in ours(checkpoints[0]).loglikelihood(pairs)]
    rough = [s[0] for s in ours(checkpoints[0], precision="bf16").loglikelihood(pairs)]
    assert rough == pytest.approx(exact, rel=0.05)
    assert rough != exact


def test_texts_are_encoded_once(checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encodings: dict[Any, list[int]] = {}
    first = ours(checkpoints[0], encodings=encodings).loglikelihood_rolling(requests("x", ("some text",)))
    again = ours(checkpoints[0], encodings=encodings)
    monkeypatch.setattr(type(again.tokenizer), "encode", lambda *_, **__: pytest.fail("encoded again"))
    assert again.loglikelihood_rolling(requests("x", ("some text",))) == first


def test_a_whole_text_follows_one_bos_whatever_the_tokenizer_adds(checkpoints: list[Path]) -> None:
    """Its probability is not the text's: equal for a tokenizer that puts BOS first by itself and one that does not."""
    texts = [("some text",), ("def f(x):\n    return x\n" * 40,)]  # within the context, and beyond it
    plain = ours(checkpoints[0])
    expected = plain.loglikelihood_rolling(requests("x", *texts))
    add_bos(checkpoints[0])
    adding = ours(checkpoints[0])
    assert adding.tok_encode("some text") == [adding.prefix_token_id, *plain.tok_encode("some text")]
    assert adding.loglikelihood_rolling(requests("x", *texts)) == expected


def test_rolling_windows_score_each_token_once(checkpoints: list[Path]) -> None:
    lm = ours(checkpoints[0])
    text = "for i in range(10): print(i)\n" * 30
    tokens = [0, *lm.tok_encode(text)]
    model = load_model(checkpoints[0])
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 96):
            stop = min(start + 96, len(tokens) - 1)
            first = start if start == 0 or stop - start == 96 else stop - 96
            logprobs = model(torch.tensor([tokens[first:stop]]))[0].log_softmax(-1)
            targets = torch.tensor(tokens[start + 1 : stop + 1])
            total += float(logprobs[start - first :].gather(1, targets[:, None]).sum())
    assert lm.loglikelihood_rolling(requests("x", (text,))) == pytest.approx([total], rel=1e-6)


def test_a_document_that_brings_its_ids_is_scored_by_them(layout: Layout) -> None:
    """What a text would become is not asked; ids behind the response's text, which end the turn, are not scored."""
    lm = ours(write_checkpoint(layout, 7, tiny_model()))
    ids = lm.tok_encode("one two three four", add_special_tokens=False)
    place = len(ids) // 2
    response = lm.tokenizer.decode(ids[place:])
    end = lm.tok_encode(" and more", add_special_tokens=False)
    document = {"prompt_tokens": ids[:place], "response_tokens": [*ids[place:], *end], "response": response}
    known = Instance("loglikelihood", document, ("another prompt", response), 0)
    assert lm._known_ids(document) == (ids[:place], ids[place:])
    [(score, _)] = lm.loglikelihood([known])
    [(expected, _)] = lm._loglikelihood_tokens([(("", ""), ids[:place], ids[place:])])
    assert score == expected


@pytest.mark.parametrize("bos", [False, True], ids=["no BOS", "BOS"])
def test_texts_encoded_together_get_the_ids_of_each_alone(layout: Layout, bos: bool) -> None:
    """And nothing is left to be encoded alone, but continuations that became part of a context's last token."""
    checkpoint = write_checkpoint(layout, 7, tiny_model())
    if bos:
        add_bos(checkpoint)
    lm = ours(checkpoint)
    pairs = [
        ("one two", " three"),
        ("one two ", "three"),
        ("", "four"),
        ("<s>five", " six"),
        ("  ", "x"),
        ("é\n", "日本"),
    ]
    calls, tokenizer = [], lm.tokenizer

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, texts: list[str], **options: Any) -> Any:
            calls.append(len(texts))
            return tokenizer(texts, **options)

    lm.tokenizer = Counting()
    lm.loglikelihood(requests("loglikelihood", *pairs))
    assert len(calls) == 2  # with and without special tokens
    for (text, special), ids in lm._encodings.items():
        options = {"add_special_tokens": False} if special is False or text.startswith("<s>") else {}
        assert ids == tokenizer.encode(text, **options)
