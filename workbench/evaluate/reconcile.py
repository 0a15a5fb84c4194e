"""Evaluations as reconciliation: compare what should exist beside each checkpoint with what does, and do the rest.

Planning (`pending`, `evaluation_id`) reads small files and imports neither torch nor lm-eval.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.config.schema import EvaluationConfig, SuiteConfig
from workbench.data.fingerprint import hash_file
from workbench.data.special_tokens import read_vocabulary
from workbench.evaluate.checked_ahead import CheckedAhead
from workbench.evaluate.document_values import add_standard_errors, document_values
from workbench.evaluate.suite import EvaluationError, evaluation_id, resolve_suite, scores_whole_texts, uses_heldout
from workbench.study.evaluation_files import read_result, result_path, write_result
from workbench.study.layout import Layout

if TYPE_CHECKING:
    from lm_eval.api.task import Task

    from workbench.evaluate.lm import WorkbenchLM

__all__ = [
    "EvaluationError",
    "Evaluator",
    "checkpoint_evaluation_id",
    "evaluation_id",
    "evaluation_id_on",
    "heldout_sources",
    "next_checkpoint",
    "pending",
]


def heldout_sources(layout: Layout, data_fingerprint: str) -> list[str]:
    """List the sources of prepared data that have held-out text, sorted.

    Raises
    ------
    EvaluationError
        The data has not been prepared.
    """
    folder = layout.data(data_fingerprint) / "heldout"
    if not folder.is_dir():
        raise EvaluationError(f"no held-out text at {folder}: run `workbench prepare` with the study's data")
    return sorted(path.stem for path in folder.glob("*.jsonl") if path.stat().st_size)


def evaluation_id_on(
    suite: SuiteConfig,
    precision: str,
    layout: Layout,
    data_fingerprint: str,
    heldout_fingerprint: str,
    outside: bool | None = None,
) -> str:
    """Id of a suite's evaluation of the checkpoints of prepared data.

    Parameters
    ----------
    suite, precision, heldout_fingerprint
        As `evaluation_id` takes them.
    layout
        The outputs.
    data_fingerprint
        Prepared data, of which held-out sources and tokenizer are taken where the suite depends on them.
    outside
        Of a checkpoint from outside, whether its own tokenizer adds tokens to a text by itself; None of all others, which
        have the prepared data's.

    Raises
    ------
    EvaluationError
        The data is not prepared, or a task is unknown.
    """
    sources = heldout_sources(layout, data_fingerprint) if uses_heldout(suite) else []
    tokenizer = _tokenizer_digest(layout, data_fingerprint) if suite.include_path == "conversations" else None
    if outside is None:
        adds_tokens = scores_whole_texts(suite, sources) and _adds_tokens(layout, data_fingerprint)
    else:
        adds_tokens = outside and scores_whole_texts(suite, sources)
    # Until results had these, a text paid for the tokens that such a tokenizer adds to it, and `transformers` read the
    # tokenizers of checkpoints from outside, some of them in a way of its own.
    marks = ({"added_tokens": "not scored"} if adds_tokens else {}) | (
        {} if outside is None else {"outside_tokenizer": "as in studies"}
    )
    return evaluation_id(suite, precision, heldout_fingerprint, sources, tokenizer, marks)


def _adds_tokens(layout: Layout, data_fingerprint: str) -> bool:
    """Whether the tokenizer of prepared data adds tokens to a text by itself."""
    path = layout.data(data_fingerprint) / "tokenizer" / "tokenizer.json"
    try:
        vocabulary = read_vocabulary(path)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"no tokenizer at {path}: run `workbench prepare` with the study's data") from error
    return vocabulary.bos is not None or vocabulary.eos is not None


def _tokenizer_digest(layout: Layout, data_fingerprint: str) -> str:
    """Digest of what makes token ids of text; without the chat template, which the conversations' name has."""
    folder = layout.data(data_fingerprint) / "tokenizer"
    hashes = [hash_file(folder / name) for name in ("tokenizer.json", "special_tokens_map.json")]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def checkpoint_evaluation_id(checkpoint: Path, suite: SuiteConfig, precision: str, layout: Layout) -> str:
    """Id of a suite's evaluation of one checkpoint.

    Raises
    ------
    EvaluationError
        The checkpoint has no manifest, its data is not prepared, or a task is unknown.
    """
    manifest = _read_manifest(checkpoint)
    prints = manifest["data_fingerprint"], manifest["heldout_fingerprint"]
    return evaluation_id_on(suite, precision, layout, *prints, manifest.get("adds_tokens"))


def pending(checkpoints: Iterable[Path], evaluation: EvaluationConfig, layout: Layout) -> list[tuple[Path, str]]:
    """Every (checkpoint, suite's key) that has no valid result, in the order given.

    A result that is truncated, altered or has another id does not count.

    Raises
    ------
    EvaluationError
        As `checkpoint_evaluation_id`.
    """
    missing: list[tuple[Path, str]] = []
    ids: dict[tuple[str, str, str], str] = {}
    for checkpoint in checkpoints:
        manifest = _read_manifest(checkpoint)
        for key, suite in evaluation.suites.items():
            asked = (key, manifest["data_fingerprint"], manifest["heldout_fingerprint"])
            if asked not in ids:
                ids[asked] = checkpoint_evaluation_id(checkpoint, suite, evaluation.precision, layout)
            if read_result(result_path(checkpoint, suite.name, ids[asked]), ids[asked]) is None:
                missing.append((checkpoint, key))
    return missing


class Evaluator:
    """Scores checkpoints; keep one instance for many of them.

    Imports, data sets, requests and their tokens are kept between checkpoints: only the weights change.
    A failure to build a suite's tasks is kept too; a new evaluator tries again.

    Parameters
    ----------
    layout
        Where checkpoints and held-out text are.
    evaluation
        The suites and the precision.
    threads
        CPU threads while scoring; the process's own number is restored afterwards.
    device
        `cpu`, `cuda`, or `auto` (cuda if available).
    """

    def __init__(self, layout: Layout, evaluation: EvaluationConfig, threads: int = 1, device: str = "auto") -> None:
        self.layout, self.evaluation = layout, evaluation
        self.threads, self.device = threads, device
        self._tasks: dict[tuple[str, str, str], dict[str, Task] | EvaluationError] = {}
        self._tokenizers: dict[str, tuple[Any, dict[tuple[str, bool | None], list[int]]]] = {}
        self._checks = CheckedAhead()

    def evaluate(self, checkpoint: Path, suite_name: str, following: Path | None = None) -> Path:
        """Score one checkpoint on one suite and write the result beside it.

        Parameters
        ----------
        checkpoint
            Directory of a checkpoint.
        suite_name
            The suite's key in `evaluation.suites`.
        following
            Another checkpoint that comes next, whose files are read and checked meanwhile; None where none does.

        Returns
        -------
        Path
            The result's file; an existing valid one is left as it is.

        Raises
        ------
        EvaluationError
            Anything failed: one line that names the task or the checkpoint. Nothing is written then.
        """
        suite = self._suite(suite_name)
        eval_id = checkpoint_evaluation_id(checkpoint, suite, self.evaluation.precision, self.layout)
        path = result_path(checkpoint, suite.name, eval_id)
        if read_result(path, eval_id) is None:
            started = time.time()
            if suite.include_path == "conversations":
                self._check_vocabulary(checkpoint)
            tasks = self._load_tasks(checkpoint, suite_name, eval_id)
            result, documents = self._score(checkpoint, suite, tasks, following)
            result |= self._describe(checkpoint, suite, eval_id, started)
            write_result(path, result, documents)
        return path

    def _suite(self, key: str) -> SuiteConfig:
        if key not in self.evaluation.suites:
            raise EvaluationError(
                f"{key!r} is not an evaluation suite; the suites are {', '.join(self.evaluation.suites)}"
            )
        return self.evaluation.suites[key]

    def _load_tasks(self, checkpoint: Path, suite_name: str, eval_id: str) -> dict[str, Task]:
        """Build a suite's tasks, or fail again at once: it takes half a minute to find the hub unreachable."""
        # With the id, since a task or its data may change while this process lives.
        key = (suite_name, _read_manifest(checkpoint)["data_fingerprint"], eval_id)
        if key not in self._tasks:
            try:
                self._tasks[key] = self._build_tasks(*key[:2])
            except EvaluationError as error:
                self._tasks[key] = error
        tasks = self._tasks[key]
        if isinstance(tasks, EvaluationError):
            raise tasks
        return tasks

    def _build_tasks(self, suite_name: str, data_fingerprint: str) -> dict[str, Task]:
        from workbench.evaluate.tasks import load_task

        suite = self._suite(suite_name)
        sources: list[str] = []
        metadata = {}
        if uses_heldout(suite):
            sources = heldout_sources(self.layout, data_fingerprint)
            metadata["heldout_dir"] = str(self.layout.data(data_fingerprint) / "heldout")
        if suite.include_path == "conversations":
            metadata["conversations_dir"] = str(self._conversations(suite, data_fingerprint))
        return {spec.name: load_task(spec, suite, metadata) for spec in resolve_suite(suite, sources)}

    def _conversations(self, suite: SuiteConfig, data_fingerprint: str) -> Path:
        from workbench.data.chat_store import find_named

        found = None if suite.conversations is None else find_named(suite.conversations, data_fingerprint, self.layout)
        if found is None:
            raise EvaluationError(
                f"evaluation suite {suite.name!r} scores held-out conversations, which only studies with a stage `sft` have"
            )
        return found.heldout_path.parent

    def _check_vocabulary(self, checkpoint: Path) -> None:
        """Refuse a checkpoint from outside that reads token ids of conversations as other tokens."""
        manifest = _read_manifest(checkpoint)
        if "weights_at" not in manifest:
            return
        theirs, _ = self._load_tokenizer(checkpoint / "tokenizer")
        ours, _ = self._load_tokenizer(self.layout.data(manifest["data_fingerprint"]) / "tokenizer")
        if (
            not ours.get_vocab().items() <= theirs.get_vocab().items()
        ):  # theirs may have more, such as a token for padding
            raise EvaluationError(
                f"checkpoint {manifest['weights_at']}: its tokenizer is another than the one of the conversations, whose "
                "token ids are scored: tune it in a study of its own (init=hf), or leave the suite out"
            )

    def _score(
        self, checkpoint: Path, suite: SuiteConfig, tasks: dict[str, Task], following: Path | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch

        from workbench.evaluate.tasks import score_task

        lm = self._load_lm(checkpoint, suite)
        if following is not None and following != checkpoint:
            with suppress(EvaluationError, KeyError):  # what is wrong with it is said when its turn comes
                self._checks.begin(*_read_files(_read_manifest(following), following))
        whole: dict[str, dict[str, Any]] = {}
        documents: dict[str, Any] = {}
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            for name, task in tasks.items():
                before = lm.encoded_alone
                scored = score_task(task, name, lm, suite)
                scored["encoded_alone"] = {name: lm.encoded_alone - before}
                documents[name] = document_values(scored.pop("samples")[name])
                add_standard_errors(scored["results"][name], documents[name])
                scored["configs"][name] = _portable(scored["configs"][name])
                for part, values in scored.items():
                    whole.setdefault(part, {}).update(values)
        finally:
            torch.set_num_threads(threads)
        return dict(whole), documents

    def _load_lm(self, checkpoint: Path, suite: SuiteConfig) -> WorkbenchLM:
        import torch

        from workbench.evaluate.lm import WorkbenchLM
        from workbench.evaluate.tasks import naming
        from workbench.model.generation_file import read_stop_ids
        from workbench.model.weights import load_any

        manifest = _read_manifest(checkpoint)
        tokenizer_dir = checkpoint / "tokenizer" if "weights_at" in manifest else checkpoint
        checkpoint, files = _read_files(manifest, checkpoint)
        mismatch = self._checks.first_mismatch(checkpoint, files)
        if mismatch is not None:
            raise EvaluationError(f"checkpoint {checkpoint} is damaged: {mismatch}")
        with naming(f"checkpoint {checkpoint}"):
            tokenizer, encodings = self._load_tokenizer(tokenizer_dir)
            device = self.device
            if device == "auto":
                device = "cuda" if torch.cuda.is_available() else "cpu"
            return WorkbenchLM(
                load_any(checkpoint).to(device),
                tokenizer,
                batch_tokens=suite.batch_tokens,
                precision=self.evaluation.precision,
                encodings=encodings,
                stop_ids=read_stop_ids(checkpoint),
            )

    def _load_tokenizer(self, directory: Path) -> tuple[Any, dict[tuple[str, bool | None], list[int]]]:
        from workbench.evaluate.saved_tokenizer import load_tokenizer

        files = sorted(p for p in directory.iterdir() if "token" in p.name and p.suffix in {".json", ".model"})
        key = hashlib.sha256(b"\0".join(path.name.encode() + b"\0" + path.read_bytes() for path in files)).hexdigest()
        if key not in self._tokenizers:
            self._tokenizers[key] = load_tokenizer(directory, ours=True, plain=True), {}
        return self._tokenizers[key]

    def _describe(self, checkpoint: Path, suite: SuiteConfig, eval_id: str, started: float) -> dict[str, Any]:
        manifest = _read_manifest(checkpoint)
        inside = checkpoint.resolve().is_relative_to(self.layout.root.resolve())
        where = checkpoint.resolve().relative_to(self.layout.root.resolve()) if inside else checkpoint
        return {
            "eval_id": eval_id,
            "suite": suite.name,
            "checkpoint": where.as_posix(),
            "stage": manifest.get("stage"),
            "step": manifest.get("step"),
            "tokens": manifest.get("tokens"),
            "heldout_fingerprint": manifest["heldout_fingerprint"],
            "config": {
                "model": "workbench",
                "model_args": {"checkpoint": where.as_posix()},
                "batch_tokens": suite.batch_tokens,
                "limit": suite.limit,
                "num_fewshot": suite.num_fewshot,
                "precision": self.evaluation.precision,
                "device": self.device,
                "threads": self.threads,
            },
            "lm_eval_version": importlib.metadata.version("lm_eval"),
            "transformers_version": importlib.metadata.version("transformers"),
            "git_hash": manifest.get("commit"),
            "date": started,
            "total_evaluation_time_seconds": time.time() - started,
        }


def _read_manifest(checkpoint: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
        missing = {"data_fingerprint", "heldout_fingerprint"} - set(manifest)
    except (OSError, ValueError, TypeError) as error:
        raise EvaluationError(f"checkpoint {checkpoint}: its manifest cannot be read ({error})") from error
    if missing:
        raise EvaluationError(f"checkpoint {checkpoint}: its manifest has no {', '.join(sorted(missing))}")
    return manifest


def _read_files(manifest: dict[str, Any], checkpoint: Path) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Give the folder of a checkpoint's weights, and what is recorded of the files that an evaluation reads."""
    # Without the optimizer's state, which is twice as large and not read here.
    files = {name: facts for name, facts in manifest["files"].items() if "optimizer" not in name}
    return Path(manifest.get("weights_at", checkpoint)), files


def next_checkpoint(pairs: Sequence[tuple[Path, str]], place: int) -> Path | None:
    """Give the checkpoint that is scored after the one at a place of a list of checkpoints and suites."""
    following = (checkpoint for checkpoint, _ in pairs[place + 1 :])
    return next((each for each in following if each != pairs[place][0]), None)


def _portable(config: dict[str, Any]) -> dict[str, Any]:
    """Remove this machine's paths from a task's config."""
    metadata = {
        k: v
        for k, v in config.get("metadata", {}).items()
        if k not in {"heldout_dir", "conversations_dir", "config_source"}
    }
    return config | {"metadata": metadata}
