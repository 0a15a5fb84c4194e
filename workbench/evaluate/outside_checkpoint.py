"""Checkpoints from outside as something to score: named by their content, with a folder for their results.

The weights stay where they are. `<outputs>/imported/<fingerprint>/<held-out fingerprint>/` holds a manifest that names
them, the tokenizer as studies have it, and the results; the held-out text is a study's, since a checkpoint from outside has none of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from workbench.config.schema import ModelConfig, TokenizerConfig, to_dict
from workbench.data.fingerprint import hash_file
from workbench.data.special_tokens import choose
from workbench.data.tokenizer import make_tokenizer, save, sized
from workbench.evaluate.hub_files import SMALL, WEIGHTS, fetch, fetch_for_plan
from workbench.evaluate.saved_tokenizer import load_tokenizer
from workbench.model.families import family_of
from workbench.model.pretrained import native_context, pretrained_config, weight_files
from workbench.model.weights import CONFIG, TOKENIZER_FILES, any_config, is_ours
from workbench.study.files import write_atomically
from workbench.study.flops import count_parameters
from workbench.study.layout import Layout

_LICENCE = re.compile(r"^license:\s*(\S+)\s*$", re.MULTILINE)
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
"""Files of which one is a whole tokenizer."""
_TOKENIZER_PARTS = ("vocab.json", "merges.txt", "added_tokens.json")
"""Files of a tokenizer besides `TOKENIZER_FILES` that `transformers` may read."""


@dataclass(frozen=True)
class Imported:
    """A checkpoint from outside."""

    fingerprint: str
    """16 hexadecimal digits that name config, weights and tokenizer by their content."""
    directory: Path
    """Where its files are."""
    model: ModelConfig
    """Its config, as `Transformer` reads it."""
    native_context_tokens: int
    """Positions that it was made for; more than the model's context where a sliding window is shorter."""
    licence: str
    """As its README.md says; `unknown` where it does not."""
    tokenizer: TokenizerConfig
    """Its tokenizer's files as a study would take them (`init=hf`), and the tokens that begin and end a text."""
    files: dict[str, dict[str, Any]]
    """`sha256` and `bytes` of each file that is read."""

    def describe(self) -> str:
        """Say in one line what it is."""
        count = count_parameters(self.model)
        return (
            f"{self.model.name} {self.fingerprint}: {count.total:,} parameters ({count.non_embedding:,} without embeddings), "
            f"context {self.model.context_tokens:,}, licence {self.licence}"
        )


def find_checkpoint(name: str, revision: str | None = None) -> Path:
    """Directory of a checkpoint: the one named, or else a snapshot of the hub's repository of that name.

    Raises
    ------
    ValueError
        There is no such directory, and the hub has no such repository or does not answer.
    """
    if Path(name).expanduser().is_dir():
        if revision is not None:
            raise ValueError(f"--revision {revision} is of a repository of the hub, but {name} is a directory")
        return Path(name).expanduser()
    return fetch(name, revision, [*SMALL, *WEIGHTS])


def find_for_plan(name: str, revision: str | None = None) -> Imported:
    """Read what a checkpoint from outside is; one of the hub without its weights, whose checksums the hub knows.

    Raises
    ------
    ValueError
        As `find_checkpoint` and `read_imported`.
    """
    if Path(name).expanduser().is_dir():
        return read_imported(find_checkpoint(name, revision))
    directory, weights = fetch_for_plan(name, revision)
    return read_imported(directory, weights)


def read_imported(directory: Path, known: Mapping[str, dict[str, Any]] | None = None) -> Imported:
    """Read what a checkpoint from outside is.

    Parameters
    ----------
    directory
        A Hugging Face directory.
    known
        `sha256` and `bytes` of weights' files, by their names, which are then not read and need not be there.

    Raises
    ------
    ValueError
        Its config cannot be represented (`UnsupportedModelError`), a file is missing, its weights are pickles, or it
        has no tokenizer that fits its vocabulary.
    """
    model = any_config(directory)
    _check_export(directory, model)
    names = (*TOKENIZER_FILES, *_TOKENIZER_PARTS)
    tokenizer = [directory / name for name in names if (directory / name).is_file()]
    if not any(path.name in _TOKENIZERS for path in tokenizer):
        raise ValueError(f"{directory} has no tokenizer: neither tokenizer.json nor tokenizer.model")
    read_by = _check_tokenizer(directory, model)
    known = known or {}
    files = {
        path.name: known.get(path.name) or {"sha256": hash_file(path), "bytes": path.stat().st_size}
        for path in [directory / CONFIG, *weight_files(directory, known), *tokenizer]
    }
    digest = hashlib.sha256(json.dumps(sorted((n, f["sha256"]) for n, f in files.items())).encode()).hexdigest()
    readme = directory / "README.md"
    said = _LICENCE.search(readme.read_text(encoding="utf-8", errors="replace")) if readme.is_file() else None
    native = model.context_tokens if is_ours(directory) else native_context(directory)
    return Imported(digest[:16], directory.resolve(), model, native, said[1] if said else "unknown", read_by, files)


def _check_export(directory: Path, model: ModelConfig) -> None:
    """Refuse an export of this project whose config others have changed: our own key would hide what they changed."""
    # An `ntk` scaling is exported as another base.
    if not is_ours(directory) or family_of(model) is None or model.rope_scaling.kind == "ntk":
        return
    theirs = replace(pretrained_config(directory), name=model.name)
    if theirs != model:
        changed = next(
            field.name for field in fields(model) if getattr(theirs, field.name) != getattr(model, field.name)
        )
        raise ValueError(
            f"{directory / CONFIG}: {changed} is {getattr(theirs, changed)!r} by its own fields, but {getattr(model, changed)!r} "
            "under the key 'workbench', which this project wrote: remove that key if the fields were changed since"
        )


def _check_tokenizer(directory: Path, model: ModelConfig) -> TokenizerConfig:
    """Refuse a tokenizer that does not fit its model; else its files, and its tokens where they alone do not say them."""
    try:
        tokenizer = load_tokenizer(directory, ours=False)
    except Exception as error:
        raise ValueError(f"{directory}: its tokenizer cannot be read: {' '.join(str(error).split())[:300]}") from error
    largest = max(tokenizer.get_vocab().values())
    if largest >= model.vocab_size:
        raise ValueError(f"{directory}: its tokenizer has the id {largest}, its model only {model.vocab_size} of them")
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"{directory}: its tokenizer names no token that ends a text (eos_token in tokenizer_config.json)"
        )
    return _as_studied(directory, tokenizer.eos_token)


def _as_studied(directory: Path, eos: str) -> TokenizerConfig:
    config = TokenizerConfig(kind="file", path=str(directory.resolve()), eos=eos)
    try:
        choose(config)
    except ValueError:  # no token that begins a text: then the one that ends it, as with lm-eval's `hf`
        config = replace(config, bos=eos)
    return config


def load_as_scored(directory: Path, own: Any) -> Any:
    """Load the tokenizer by which the text of a checkpoint from outside is scored.

    Parameters
    ----------
    directory
        A Hugging Face directory.
    own
        Its tokenizer as `transformers` loads it; given back where no text is scored by another: there is neither
        tokenizer.json nor tokenizer.model, or no token that ends a text.
    """
    if own.eos_token is None or not any((directory / name).is_file() for name in _TOKENIZERS):
        return own
    with tempfile.TemporaryDirectory(prefix="tokenizer-") as folder:
        place = Path(folder) / "tokenizer"
        _place_tokenizer(_as_studied(directory, own.eos_token), place)
        return load_tokenizer(place, ours=True, plain=True)


def _place_tokenizer(config: TokenizerConfig, folder: Path) -> bool:
    """Write a tokenizer as studies have it, unless it is there; whether it adds tokens to a text by itself.

    A study (`init=hf`) tokenizes by `tokenizer.json` as it is, with `</s>` in a text being text. `transformers`' own class
    for a model type may cut text otherwise: Llama's drops one of two spaces that a text begins with.
    """
    tokenizer = make_tokenizer(sized(config), ())
    if not folder.is_dir():
        partial = Path(tempfile.mkdtemp(prefix="tokenizer-", dir=folder.parent))
        save(tokenizer, partial, choose(config))
        try:
            partial.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return tokenizer.num_special_tokens_to_add(False) > 0


def place_results(layout: Layout, imported: Imported, data: tuple[str, str] | None) -> Path:
    """Folder that the evaluator takes for the checkpoint: a manifest that names the weights, its tokenizer, and the results.

    Parameters
    ----------
    layout
        The outputs.
    imported
        What `read_imported` gave.
    data
        Fingerprints of the prepared data and of its held-out text; None where no suite reads any.
    """
    folder = layout.imported(imported.fingerprint) / (data[1] if data else "no_heldout")
    folder.mkdir(parents=True, exist_ok=True)
    adds_tokens = _place_tokenizer(imported.tokenizer, folder / "tokenizer")
    manifest = {
        "format": 1,
        "imported": imported.fingerprint,
        "weights_at": str(imported.directory),
        "adds_tokens": adds_tokens,
        "model": to_dict(imported.model),
        "licence": imported.licence,
        "data_fingerprint": data[0] if data else "",
        "heldout_fingerprint": data[1] if data else "",
        "files": imported.files,
    }
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=1))
    return folder
