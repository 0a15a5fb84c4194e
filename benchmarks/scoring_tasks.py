"""Scores of lm-eval's tasks beside lm-eval's own `hf` model: how long each takes, and whether they agree.

    python benchmarks/scoring_tasks.py --rounds 3

It makes a random checkpoint of 13.8M parameters and two tasks of four endings each from the standard library's text:
500 documents without examples (80 tokens of context, 25 an ending), and 100 with five examples, the same for every
document (about 600 tokens of context). In each round both models score each task in turn, as `workbench evaluate` has
them scored: encoding of the texts included, making the task and loading the weights not.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from lm_eval.api.task import Task
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from workbench.config.schema import ModelConfig, SuiteConfig
from workbench.evaluate.lm import WorkbenchLM
from workbench.evaluate.suite import resolve_suite
from workbench.evaluate.tasks import load_task, score_task
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer
from workbench.model.weights import load_model, write_hf

MODEL = ModelConfig(
    name="benchmark",
    num_layers=6,
    width=384,
    num_heads=6,
    num_kv_heads=6,
    mlp_width=1024,
    vocab_size=4096,
    context_tokens=1024,
)
CONTEXT_TOKENS, ENDING_TOKENS, ENDINGS, EXAMPLES = 80, 25, 4, 5
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


class Question(NamedTuple):
    """A made task and how it is asked."""

    name: str
    documents: int
    examples: int


QUESTIONS = (Question("zero_shot", 500, 0), Question("five_shot", 100, EXAMPLES))


class Measured(NamedTuple):
    """What scoring a task gave."""

    seconds: float
    processor_seconds: float
    """Of all threads: what tells more than wall time on a machine that others use."""
    scores: list[tuple[float, bool]]
    """Log-likelihood and greedy flag of each ending."""


def main() -> None:
    """Measure and print a line of JSON a round and task, and one of the whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=SuiteConfig("default", ["any"]).batch_tokens)
    parser.add_argument("--hf-batch", type=int, default=8, help="sequences per batch of `hf`")
    parser.add_argument("--tasks", nargs="*", default=[question.name for question in QUESTIONS])
    parser.add_argument("--share", type=float, default=1.0, help="of the documents, for a quick look")
    parser.add_argument("--only-ours", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_checkpoint(Path(folder) / "checkpoint")
        asked = [question for question in QUESTIONS if question.name in options.tasks]
        asked = [question._replace(documents=round(question.documents * options.share)) for question in asked]
        for question in asked:
            write_task(Path(folder), checkpoint, question)
        for question in asked:
            compare(question, Path(folder), checkpoint, options)


def compare(question: Question, folder: Path, checkpoint: Path, options: argparse.Namespace) -> None:
    """Score one task by both models in turn, and print what they took and how far apart they are."""
    suite = SuiteConfig(question.name, [question.name], include_path=str(folder), num_fewshot=question.examples)
    (spec,) = resolve_suite(suite, [])
    task = load_task(spec, suite, {})
    found: dict[str, list[Measured]] = {"ours": [], "hf": []}
    for _ in range(options.rounds):
        for kind in ("ours",) if options.only_ours else ("ours", "hf"):
            found[kind].append(measure(kind, task, checkpoint, suite, options))
        times = {kind: [round(value, 2) for value in each[-1][:2]] for kind, each in found.items() if each}
        print(json.dumps({"task": question.name, **times}), flush=True)
    print(json.dumps({"task": question.name, **summary(found), **circumstances(options)}))


def measure(kind: str, task: Task, checkpoint: Path, suite: SuiteConfig, options: argparse.Namespace) -> Measured:
    """Score a task with a model that is newly loaded, and so has encoded nothing yet."""
    tokenizer = AutoTokenizer.from_pretrained(str(checkpoint))
    if kind == "ours":
        lm: Any = WorkbenchLM(load_model(checkpoint), tokenizer, batch_tokens=options.batch_tokens)
    else:
        make_hf: Any = HFLM  # pyright takes its decorator for its class
        lm = make_hf(pretrained=str(checkpoint), device="cpu", dtype="float32", batch_size=options.hf_batch)
    started, used = time.perf_counter(), time.process_time()
    samples = score_task(task, suite.name, lm, suite)["samples"][suite.name]
    took = time.perf_counter() - started, time.process_time() - used
    return Measured(*took, [(float(s), bool(g)) for sample in samples for s, g in sample["filtered_resps"]])


def summary(found: dict[str, list[Measured]]) -> dict[str, Any]:
    """Medians, their ratios with the range over the rounds, and the largest differences."""
    result: dict[str, Any] = {}
    for name in ("seconds", "processor_seconds"):
        times = {kind: [getattr(m, name) for m in each] for kind, each in found.items() if each}
        result[name] = {kind: round(statistics.median(each), 2) for kind, each in times.items()}
        if found["hf"]:
            ratios = [hf / ours for hf, ours in zip(times["hf"], times["ours"], strict=True)]
            result[f"ratio_of_{name}"] = [round(f(ratios), 2) for f in (statistics.median, min, max)]
    result["ours_repeats_bit_for_bit"] = all(each.scores == found["ours"][0].scores for each in found["ours"])
    if found["hf"]:
        pairs = list(zip(found["ours"][0].scores, found["hf"][0].scores, strict=True))
        result |= {
            "endings": len(pairs),
            "largest_difference": max(abs(ours[0] - hf[0]) for ours, hf in pairs),
            "other_greedy_flags": sum(ours[1] != hf[1] for ours, hf in pairs),
        }
    return result


def circumstances(options: argparse.Namespace) -> dict[str, Any]:
    """What a number of seconds depends on."""
    return {
        "threads": options.threads,
        "batch_tokens": options.batch_tokens,
        "hf_batch": options.hf_batch,
        "processor": processor(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }


def processor() -> str:
    """Name of this machine's processor, with its family and model, which its maker's name may not tell."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in path.read_text().split("\n\n")[0].splitlines() if ":" in line)
    known = {name.strip(): value.strip() for name, value in facts.items()}
    return (
        f"{known.get('model name', platform.machine())} (family {known.get('cpu family')}, model {known.get('model')})"
    )


def make_checkpoint(directory: Path) -> Path:
    """Write random weights and a tokenizer of the standard library's text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MODEL.vocab_size,
        special_tokens=list(NAMES.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    own = directory.parent / "tokenizer"
    own.mkdir(parents=True)
    tokenizer.save(str(own / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (own / "tokenizer_config.json").write_text(json.dumps(config | NAMES))
    (own / "special_tokens_map.json").write_text(json.dumps(NAMES))
    model = Transformer(MODEL)
    init_weights(model, seed=0)
    with torch.no_grad():  # far from uniform, so that endings differ
        model.head_weight.mul_(3.0)
    directory.mkdir()
    write_hf(directory, model, own, bos_id=0, eos_id=1)
    return directory


def texts() -> list[str]:
    """Modules of the standard library, in the order of their names."""
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return [path.read_text(encoding="utf-8", errors="replace") for path in paths]


def write_task(folder: Path, checkpoint: Path, question: Question) -> None:
    """Write a task's file and its documents; examples come first and are the same for every document."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    draw = random.Random(question.name)
    pieces = passages(tokenizer, draw)
    for split, count in (("test", question.documents), ("train", max(question.examples, 1))):
        lines = [json.dumps(make_document(tokenizer, pieces, draw)) for _ in range(count)]
        (folder / f"{question.name}_{split}.jsonl").write_text("\n".join(lines) + "\n")
    files = {split: str(folder / f"{question.name}_{split}.jsonl") for split in ("test", "train")}
    task = {
        "task": question.name,
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
    (folder / f"{question.name}.yaml").write_text(yaml.safe_dump(task))


def passages(tokenizer: Tokenizer, draw: random.Random) -> list[list[int]]:
    """Stretches of tokens as long as a context and an ending, in random order."""
    size = CONTEXT_TOKENS + ENDING_TOKENS
    ids = [encoded.ids for encoded in tokenizer.encode_batch(texts())]
    pieces = [each[start : start + size] for each in ids for start in range(0, len(each) - size, size)]
    draw.shuffle(pieces)
    return pieces


def make_document(tokenizer: Tokenizer, pieces: list[list[int]], draw: random.Random) -> dict[str, Any]:
    """A passage with its own ending among those of others."""
    context = tokenizer.decode(pieces[-1][:CONTEXT_TOKENS]).rstrip()
    endings = [tokenizer.decode(pieces.pop()[CONTEXT_TOKENS:]).strip() or "pass" for _ in range(ENDINGS)]
    answer = draw.randrange(ENDINGS)
    endings[0], endings[answer] = endings[answer], endings[0]
    return {"context": context, "endings": endings, "answer": answer}


if __name__ == "__main__":
    main()
