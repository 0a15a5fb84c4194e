"""A small tokenizer as Llama 2's files have it: byte fallback, a mark for spaces, BOS before every text by itself."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

SPECIAL = ["<unk>", "<s>", "</s>"]
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def write_llama_like(directory: Path, texts: list[str], **config: object) -> int:
    """Write its files into a directory, and give the number of its ids."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=480, special_tokens=[*SPECIAL, *alphabet], show_progress=False, max_token_length=16
    )
    made.train_from_iterator(texts, trainer)
    content = json.loads(made.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in SPECIAL]
    content["pre_tokenizer"] = None
    space = {"pattern": {"String": " "}, "content": "▁"}
    content["normalizer"] = sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", **space})
    mark = {"pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    content["decoder"] = sequence(
        "decoders", {"type": "Replace", **mark}, {"type": "ByteFallback"}, {"type": "Fuse"}, strip
    )
    bos, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, text],
        "pair": [bos, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    (directory / "tokenizer.json").write_text(json.dumps(content))
    values = {**NAMES, "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(values))
    (directory / "special_tokens_map.json").write_text(json.dumps(NAMES))
    return made.get_vocab_size()


def sequence(name: str, *parts: dict) -> dict:
    return {"type": "Sequence", name: list(parts)}
