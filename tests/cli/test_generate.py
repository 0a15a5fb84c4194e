"""`workbench generate`: texts that stream, several at once, chat, and checkpoints that only `transformers` reads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from tests.evaluate.conftest import heldout_texts, tiny_model, write_tokenizer
from workbench.cli import main
from workbench.evaluate.generate import Asked, eos_ids, generate
from workbench.evaluate.generator import Generator
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer
from workbench.model.weights import write_hf

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    write_tokenizer(folder, [text for texts in heldout_texts().values() for text in texts])
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path, tokenizer_dir: Path) -> Path:
    model = Transformer(tiny_model())
    init_weights(model, seed=1)
    with torch.no_grad():
        model.head_weight.mul_(3.0)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write_hf(folder, model, tokenizer_dir, bos_id=0, eos_id=1)
    return folder


def written(checkpoint: Path, *texts: str, **asked: Any) -> list[str]:
    pieces: list[str] = []
    generate(checkpoint, texts, Asked(**asked), pieces.append)
    return pieces


def of_transformers(checkpoint: Path, text: str, count: int, **options: Any) -> str:
    tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoint))
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    ids = torch.tensor([[0, *tokenizer(text).input_ids]])
    options = {"do_sample": False, "pad_token_id": 1, "eos_token_id": 1} | options
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, **options)
    return tokenizer.decode(out[0], skip_special_tokens=True)


def test_texts_are_written_in_order_as_they_come(checkpoint: Path) -> None:
    texts = ["import os", "def f(self", "Return"]
    pieces = written(checkpoint, *texts, max_tokens=12)
    expected = [of_transformers(checkpoint, text, 12) for text in texts]
    assert "".join(pieces) == "\n\n".join(expected) + "\n"
    assert pieces[0] == "import os"
    assert len(pieces) > 8
    assert "".join(written(checkpoint, texts[1], max_tokens=12)) == expected[1] + "\n"


def test_samples_depend_on_seed_and_place_alone(checkpoint: Path) -> None:
    options = {"max_tokens": 10, "temperature": 1.0, "top_k": 50, "top_p": 0.95}
    first, second = "".join(written(checkpoint, "a", "a", **options, seed=3)).split("\n\na")
    assert "".join(written(checkpoint, "a", **options, seed=3)) == first + "\n"
    assert first[1:] != second[:-1]


def test_a_model_that_is_not_ours_goes_through_transformers(
    tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=512,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.3,
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    for path in tokenizer_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(Generator, "stream", lambda *_: pytest.fail("no model of ours"))
    expected = [of_transformers(tmp_path, text, 9) for text in ("import os", "x")]
    assert "".join(written(tmp_path, "import os", "x", max_tokens=9)) == "\n\n".join(expected) + "\n"
    with pytest.raises(ValueError, match="100 more exceed the model's context of 64"):
        written(tmp_path, "x", max_tokens=100)
    count = 1 + len(AutoTokenizer.from_pretrained(str(tmp_path))("import os").input_ids)
    longest = of_transformers(tmp_path, "import os", 64 - count)
    assert "".join(written(tmp_path, "import os")) == longest + "\n"


def test_chat_ends_where_the_template_ends_a_turn(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="has no chat template: leave out --chat"):
        written(checkpoint, "hello", chat=True)
    (checkpoint / "chat_template.jinja").write_text(TEMPLATE)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoint))
    seen: list[Any] = []
    stream = Generator.stream

    def noted(self: Generator, prompts: Any) -> Any:
        seen.extend(prompts)
        return stream(self, prompts)

    monkeypatch.setattr(Generator, "stream", noted)
    answer = "".join(written(checkpoint, "hello", chat=True, max_tokens=8))
    assert tokenizer.decode(seen[0].tokens) == "<s><user>hello<end>\n<assistant>"
    assert list(seen[0].tokens).count(0) == 1
    assert seen[0].stops == ("<end>",)
    assert answer.endswith("\n")
    assert "hello" not in answer


def test_ends_of_sequence_come_from_all_that_name_them(checkpoint: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoint))
    assert eos_ids(checkpoint, tokenizer) == [1]
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert eos_ids(checkpoint, tokenizer) == [7, 9, 1]
    (checkpoint / "generation_config.json").unlink()
    assert eos_ids(checkpoint, tokenizer) == [1]


def test_without_a_number_as_many_tokens_are_added_as_fit(checkpoint: Path) -> None:
    long = "x = 1 " * 12
    tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoint))
    count = 1 + len(tokenizer(long).input_ids)
    assert 96 - 64 < count < 96
    assert "".join(written(checkpoint, long)) == of_transformers(checkpoint, long, 96 - count) + "\n"
    assert "".join(written(checkpoint, "x")) == of_transformers(checkpoint, "x", 64) + "\n"
    with pytest.raises(ValueError, match="1 more exceed the model's context of 96"):
        written(checkpoint, long * 4)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--max-tokens", "0"], "max_tokens=0 must be at least 1"),
        (["--max-tokens", "500"], "500 more exceed the model's context of 96"),
        (["--temperature", "-1"], r"temperature=-1.0 must be above 0"),
        (["--top-k", "5"], "top_k=5 is for sampling"),
        (["--top-p", "2", "--temperature", "1"], r"top_p=2.0 must be above 0 and at most 1"),
    ],
)
def test_mistakes_are_one_line(
    checkpoint: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["generate", str(checkpoint), "import", *arguments])
    assert ended.value.code == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert reason in error


def test_the_command_takes_several_texts(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["generate", str(checkpoint), "import", "--max-tokens", "5", "x ="])
    assert ended.value.code == 0
    first, second = capsys.readouterr().out.split("\n\n")
    assert first.startswith("import")
    assert second.startswith("x =")
