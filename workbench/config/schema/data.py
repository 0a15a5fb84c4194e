"""Configuration of the data and the tokenizer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from workbench.config.filter_syntax import parse_filter
from workbench.config.plain import check_above, check_at_least, check_choice, check_name, exact_weights
from workbench.config.schema.corpus import CorpusConfig
from workbench.config.schema.quality_thresholds import QualitySettings

SOURCE_KINDS = (
    "python_prose",
    "python_code",
    "python_headers",
    "jsonl",
    "parquet",
    "arrow",
    "text",
    "huggingface",
    "tokens",
)
TOKENIZER_KINDS = ("bpe", "file")
_KINDS_WITH_RECORDS = ("jsonl", "parquet", "arrow", "huggingface")
_KINDS_AT_URLS = ("jsonl", "parquet", "arrow", "text")
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
TOKEN_DTYPES = ("uint16", "uint32")
DEFAULT_HELDOUT_PERCENT = 2.0
PACKINGS = ("concatenate", "best_fit")
_TEXT_STEPS = ("max_bytes", "where", "quality", "language")
"""Settings of a source that are about its texts."""


@dataclass(frozen=True)
class SourceConfig:
    """One collection of documents and its share of the training tokens."""

    kind: str
    """`python_prose`, `python_code`, `python_headers` (this environment's own texts), or a reader: `jsonl`
    (also .json, .ndjson), `parquet`, `arrow` (as `datasets` saves), `text` (text files), `huggingface` (through `datasets`, or
    by `files`), or `tokens` (token files that were made elsewhere, used as they are; docs/corpora.md). Files of `jsonl` and
    `text` may be packed (.gz, .zst)."""
    weight: float = 1.0
    """Share of the training tokens, relative to the other sources'."""
    path: str = ""
    """File, folder (with everything in it) or glob; for `huggingface` the data set's name, or a folder. A path that
    exists is never read as a glob. Relative paths start at the working directory. Of `jsonl`, `parquet`, `arrow` and `text`
    also a URL that fsspec knows (`s3://bucket/folder/*.parquet`), which needs `data.corpus`; without password and signature,
    since it is recorded. Unused by the `python_*` kinds."""
    files: list[str] | None = None
    """`huggingface`: globs of the data set's files (`sample/10BT/*.parquet`; `**` is any number of folders), which are fetched
    one by one and read by their endings, without `datasets` and loading scripts. Needs `data.corpus`. None reads rows
    through `datasets`."""
    text_field: str = "text"
    """Field (column) with the text; `meta.text` is the field `text` inside `meta`."""
    subset: str | None = None
    """`huggingface`: configuration name of the data set."""
    split: str = "train"
    """`huggingface`: split to read."""
    revision: str | None = None
    """`huggingface`: commit, branch or tag; None is the main branch. The commit that it is when the study is launched
    is recorded and part of the fingerprint."""
    max_bytes: int | None = None
    """Most training text to take, in UTF-8 bytes after filtering; None takes all. It ends before the first document
    that does not fit, so that a smaller cap is the beginning of a larger one."""
    heldout_bytes: int = 200_000
    """Amount of held-out text to aim for, in UTF-8 bytes; independent of `max_bytes`."""
    unique_tokens: int | None = None
    """Most distinct training tokens to use; None uses all, and `plan` tells if there are fewer. Smaller subsets
    are contained in larger ones."""
    max_epochs: float | None = 1.0
    """Most times a token may be seen; None allows any repetition."""
    size_bytes: int | None = None
    """Size of its files where they are published, in bytes, for `workbench plan` before they are here; None: not known."""
    where: str | None = None
    """Condition on a record's fields, such as `meta.redpajama_set_name != "RedPajamaGithub"`, also by language
    (`language == "en" and language_score >= 0.65`) or length (`len(text) >= 200`): documents that do not meet it are dropped
    and counted; None keeps all. Needs `data.corpus`, and a kind with records (docs/corpora.md)."""
    quality: QualitySettings | None = None
    """Published rules of quality that documents must meet; None has none. Needs `data.corpus`."""
    language: str | None = None
    """Field that names a document's language, such as `meta.lang`: the report says how many documents are in which. None: no
    field does. Needs `data.corpus`, and a kind with records."""
    packages: list[str] | None = None
    """`python_*`: packages of `requirements.lock` whose texts are read alone, such as `transformers`; None reads all of them
    and, but for headers, the standard library."""
    token_dtype: str | None = None
    """`tokens`: `uint16` or `uint32`, for flat files, which do not say it themselves; None where they do."""
    heldout_path: str | None = None
    """`tokens`: jsonl with the held-out documents (`text_field`), of which those with the smallest hashes are taken up to
    `heldout_bytes`, and no token is kept out of training; None holds out documents of the token files."""

    def __post_init__(self) -> None:
        """Refuse a source that no reader could read."""
        check_choice("source kind", self.kind, SOURCE_KINDS)
        check_at_least("source weight", self.weight, 0)
        if not self.kind.startswith("python_") and not self.path:
            raise ValueError(f"a source of kind {self.kind!r} needs a path")
        check_at_least("source max_bytes", self.max_bytes, 1)
        check_at_least("source size_bytes", self.size_bytes, 1)
        check_at_least("source heldout_bytes", self.heldout_bytes, 0)
        check_at_least("source unique_tokens", self.unique_tokens, 1)
        check_above("source max_epochs", self.max_epochs, 0)
        self._check_tokens()
        self._check_files()
        self._check_url()
        self._check_packages()
        if self.where is not None and not self.where.strip():
            raise ValueError(f"source where={self.where!r} is no condition: leave it out, or write null, to read all")
        if self.where is not None:
            if self.kind not in _KINDS_WITH_RECORDS:
                raise ValueError(
                    f"source where={self.where!r}: documents of kind {self.kind!r} have no fields; kinds with fields are "
                    f"{', '.join(_KINDS_WITH_RECORDS)}"
                )
            parse_filter(self.where)
        self._check_language()

    def _check_language(self) -> None:
        if self.language is None:
            return
        if not self.language.strip():
            raise ValueError(f"source language={self.language!r} is no field: leave it out, or write null")
        if self.kind not in _KINDS_WITH_RECORDS:
            raise ValueError(
                f"source language={self.language!r}: documents of kind {self.kind!r} have no fields; kinds with fields are "
                f"{', '.join(_KINDS_WITH_RECORDS)}"
            )

    @property
    def scheme(self) -> str | None:
        """Scheme of a path that is a URL (`s3`), which fsspec reads; None where files lie on this machine, or on the hub."""
        found = _URL.match(self.path) if self.kind in _KINDS_AT_URLS else None
        return found[1].lower() if found else None

    @property
    def is_remote(self) -> bool:
        """Whether files are listed and fetched one by one: of a data set of the hub, or at a URL."""
        return self.files is not None or self.scheme is not None

    def check_written(self) -> None:
        """Refuse what older releases let pass, so that their records may hold it.

        It is what only a data set of the hub has: elsewhere `split=validation` would read everything.

        Raises
        ------
        ValueError
            With the setting.
        """
        for name, unset in (("subset", None), ("split", "train"), ("revision", None)):
            value = vars(self)[name]
            if self.kind != "huggingface" and value != unset:
                raise ValueError(
                    f"source {name}={value!r} is for sources of kind 'huggingface', not {self.kind!r}: leave it out"
                )

    def _check_files(self) -> None:
        """Refuse globs that no data set's files could match."""
        if self.files is None:
            return
        if self.kind != "huggingface":
            raise ValueError(
                f"source files={self.files!r} are of sources of kind 'huggingface', not {self.kind!r}: set path to the files"
            )
        if not self.files:
            raise ValueError("source files=[] names no file: name some, as ['train/*.parquet'], or write null")
        for name, value, unset in (("subset", self.subset, None), ("split", self.split, "train")):
            if value != unset:
                raise ValueError(
                    f"source {name}={value!r} is for `datasets`, and files names files: leave one of them out"
                )
        for pattern in self.files:
            if not pattern or pattern.startswith("/") or {".", ".."} & set(pattern.split("/")):
                raise ValueError(
                    f"source files={pattern!r} is no glob of a data set's files, whose names are relative to it, as in "
                    "'train/*.parquet'"
                )

    def _check_url(self) -> None:
        """Refuse URLs that are read in another way."""
        if self.kind == "tokens" and _URL.match(self.path):
            raise ValueError(
                f"source path={self.path!r}: token files are read in place, on this machine: download them"
            )
        if self.scheme == "file":
            raise ValueError(f"source path={self.path!r}: write files of this machine without file://")
        if self.scheme == "hf":
            name = "/".join(self.path.partition("://")[2].removeprefix("datasets/").split("/")[:2])
            raise ValueError(
                f"source path={self.path!r}: data sets of the hub are read at a commit: set kind=huggingface path={name} and "
                "files to globs of its files"
            )

    def _check_packages(self) -> None:
        """Refuse packages where no package's texts are read, none, and one twice."""
        if self.packages is None:
            return
        if not self.kind.startswith("python_"):
            raise ValueError(
                f"source packages={self.packages!r} is for sources of the kinds python_*, not {self.kind!r}: leave it out"
            )
        if not self.packages or len(set(self.packages)) < len(self.packages):
            raise ValueError(
                f"source packages={self.packages!r}: name packages, each once, or leave it out to read all"
            )

    def _check_tokens(self) -> None:
        """Refuse settings of token files for texts, and of texts for token files."""
        given = vars(self)
        names = _TEXT_STEPS if self.kind == "tokens" else ("token_dtype", "heldout_path")
        name = next((name for name in names if given.get(name) is not None), None)
        if name is not None and self.kind == "tokens":
            raise ValueError(
                f"source {name}={given[name]!r} is about texts, and a source of kind 'tokens' has token ids: leave it out"
            )
        if name is not None:
            raise ValueError(
                f"source {name}={given[name]!r} is for sources of kind 'tokens', not {self.kind!r}: leave it out"
            )
        if self.token_dtype is not None:
            check_choice("source token_dtype", self.token_dtype, TOKEN_DTYPES)


@dataclass(frozen=True)
class DataConfig:
    """The sources of a study, and how they are split and filtered."""

    name: str
    """Short name, used in figures and run names."""
    sources: dict[str, SourceConfig]
    """Sources by name; the names appear in metrics (`heldout/<source>/bits_per_byte`)."""
    heldout_percent: float = DEFAULT_HELDOUT_PERCENT
    """Held-out files, in percent of all files, chosen by a hash of each file's content. A corpus holds out an amount instead
    (`heldout_bytes` of each source): it chooses nothing there and is no part of the fingerprint."""
    min_document_bytes: int = 200
    """Documents shorter than this are dropped."""
    heldout_document_bytes: int = 1500
    """Most text to take of one held-out document, in UTF-8 bytes. At 1,500, 200 kB are some hundreds of documents, none of
    which reaches beyond some 400 tokens: scores at later positions need more of each, and more `heldout_bytes` for as many
    documents."""
    unique_tokens: int | None = None
    """Distinct training tokens of all sources together, divided among them by their weights, so that all are
    repeated equally often; None leaves each source its own. Smaller subsets are contained in larger ones. Refused with
    phases that set a mixture, with a weight of 0, and (before training) if a store has fewer."""
    overlap_lines: int = 5
    """Every run of this many non-blank lines (white space folded) that occurs in a held-out document is
    removed from training text."""
    document_mask: bool = False
    """Whether attention in training is confined to documents, several of which share a sequence; positions then count
    from each document's beginning."""
    packing: str = "concatenate"
    """How documents become sequences: `concatenate` puts them one behind the other and cuts every `model.context_tokens`
    tokens; `best_fit` cuts only documents that are longer, and packs what is left by best fit, with padding that has no
    loss (docs/corpora.md)."""
    corpus: CorpusConfig | None = None
    """Build the data in shards, by any number of processes (docs/corpora.md); None builds it in one pass."""

    def __post_init__(self) -> None:
        """Refuse an empty or one-sided split."""
        if not self.sources:
            raise ValueError("data.sources is empty: name at least one source")
        if not 0 < self.heldout_percent < 100:
            raise ValueError(f"data.heldout_percent={self.heldout_percent!r} must lie between 0 and 100")
        check_choice("data.packing", self.packing, PACKINGS)
        check_at_least("data.overlap_lines", self.overlap_lines, 1)
        check_at_least("data.min_document_bytes", self.min_document_bytes, 1)
        check_at_least("data.unique_tokens", self.unique_tokens, 1)
        holds_out = any(source.heldout_bytes for source in self.sources.values())
        if holds_out and self.heldout_document_bytes < self.min_document_bytes:
            raise ValueError(
                f"data.heldout_document_bytes={self.heldout_document_bytes} is below "
                f"data.min_document_bytes={self.min_document_bytes}, so that no document could be held out: raise it"
            )
        if self.unique_tokens is not None and any(source.unique_tokens for source in self.sources.values()):
            raise ValueError(
                f"data.unique_tokens={self.unique_tokens} conflicts with a source's own unique_tokens: set only one"
            )
        for name in self.sources:
            check_name("data.sources", name)
        exact_weights({name: source.weight for name, source in self.sources.items()})
        for name, source in self.sources.items():
            if source.where is not None and self.corpus is None:
                raise ValueError(
                    f"data.sources.{name}.where={source.where!r} needs data.corpus, since data that is built in one pass is "
                    "not filtered: set data.corpus={}, or leave the condition out"
                )
            if source.is_remote and self.corpus is None:
                what = f"path={source.path!r}" if source.files is None else f"files={source.files!r}"
                raise ValueError(
                    f"data.sources.{name}.{what} needs data.corpus, since data that is built in one pass is read from this "
                    "machine or through `datasets`: set data.corpus={}"
                )
            if source.quality is not None and self.corpus is None:
                raise ValueError(
                    f"data.sources.{name}.quality needs data.corpus, since data that is built in one pass is not filtered: set "
                    "data.corpus={}, or leave the rules out"
                )
            if source.language is not None and self.corpus is None:
                raise ValueError(
                    f"data.sources.{name}.language={source.language!r} needs data.corpus, since data that is built in one pass "
                    "is not counted by language: set data.corpus={}, or leave it out"
                )
        self._check_token_sources()

    def _check_token_sources(self) -> None:
        """Refuse token files in what is not a corpus, and steps for texts where there are none."""
        tokens = [name for name, source in self.sources.items() if source.kind == "tokens"]
        if tokens and self.corpus is None:
            raise ValueError(
                f"data.sources.{tokens[0]}.kind='tokens' needs data.corpus, since data that is built in one pass is made of "
                "texts: set data.corpus={}"
            )
        if self.corpus is None or len(tokens) < len(self.sources):
            return
        for step, does in (
            ("near_duplicates", "compares texts"),
            ("heldout_near_duplicates", "compares texts"),
            ("contamination", "looks into texts"),
        ):
            if vars(self.corpus).get(step):
                raise ValueError(f"data.corpus.{step} {does}, and all sources are of kind 'tokens': leave it out")


@dataclass(frozen=True)
class TokenizerConfig:
    """How text is turned into token ids."""

    kind: str = "bpe"
    """`bpe`: byte-level BPE trained on the training split; `file`: `path` as it is."""
    vocab_size: int = 4096
    """Number of token ids, special tokens included; a `file` must have exactly this many."""
    path: str | None = None
    """A `tokenizer.json` or a sentencepiece `tokenizer.model`, or a folder that holds one."""
    bos: str | None = None
    """`file`: token put before every document, as text; None takes the one that the files name."""
    eos: str | None = None
    """`file`: token that ends a text; None takes the one that the files name, if any."""
    train_bytes: int = 8_000_000
    """Amount of training text the BPE is trained on, in bytes; independent of the sources' `max_bytes`."""

    def __post_init__(self) -> None:
        """Refuse a file without a path, and a vocabulary that cannot hold all bytes."""
        check_choice("tokenizer.kind", self.kind, TOKENIZER_KINDS)
        if self.kind == "file" and not self.path:
            raise ValueError("tokenizer.kind='file' needs tokenizer.path")
        for name, token in (("bos", self.bos), ("eos", self.eos)):
            if token is not None and (self.kind == "bpe" or not token):
                raise ValueError(
                    f"tokenizer.{name}={token!r}: name a token of a tokenizer.kind='file', or leave it out"
                )
        check_at_least("tokenizer.vocab_size", self.vocab_size, 260 if self.kind == "bpe" else 2)
        check_at_least("tokenizer.train_bytes", self.train_bytes, 1)
