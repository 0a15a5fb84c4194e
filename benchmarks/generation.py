"""Greedy generation beside `transformers.generate`: how long each takes, and whether the tokens are the same.

    python benchmarks/generation.py --rounds 3 --threads 2

It makes random weights of one of `conf/model`, writes them as a checkpoint, and loads that as `transformers` and
`workbench generate` load it. Each round generates from prompts of one token, all different, by either side in turn.
Neither has an end of sequence, so that both make all tokens.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from scoring_tasks import processor
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import workbench.model.hf  # noqa: F401  registers the model type for what no family can represent
from workbench.config.schema import ModelConfig
from workbench.evaluate.generator import Generator, Prompt
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer
from workbench.model.weights import load_model, write_hf

MODELS = Path(__file__).resolve().parents[1] / "conf" / "model"


class Measured(NamedTuple):
    """What generating took and gave."""

    seconds: float
    processor_seconds: float
    """Of all threads."""
    tokens: list[list[int]]


def main() -> None:
    """Measure and print a line of JSON a round, and one of the whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="m1", help="a file of conf/model")
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, help="sequences of a batch of ours, at most")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    prompts = torch.randperm(options.vocab, generator=torch.Generator().manual_seed(0))[: options.sequences, None]
    with tempfile.TemporaryDirectory() as folder:
        write_hf(Path(folder), make_model(options), None, bos_id=0, eos_id=1)
        sides = {"ours": ours(Path(folder), prompts, options), "transformers": theirs(Path(folder), prompts, options)}
        for side in sides.values():  # what is set up at first use is not measured
            side(8)
        found: dict[str, list[Measured]] = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name, side in sides.items():
                found[name].append(measure(side, options.tokens))
            print(json.dumps({name: [round(value, 2) for value in each[-1][:2]] for name, each in found.items()}))
    print(json.dumps(summary(found) | vars(options) | {"processor": processor(), "torch": torch.__version__}))


def make_model(options: argparse.Namespace) -> Transformer:
    """Random weights, with logits far from uniform so that no two are about equal."""
    values = yaml.safe_load((MODELS / f"{options.model}.yaml").read_text(encoding="utf-8"))
    del values["defaults"]
    values |= {"vocab_size": options.vocab, "context_tokens": max(options.tokens, values["context_tokens"])}
    model = Transformer(ModelConfig(**values))
    init_weights(model, seed=0)
    with torch.no_grad():
        model.head_weight.mul_(3.0)
    return model


def ours(folder: Path, prompts: torch.Tensor, options: argparse.Namespace) -> Callable[[int], list[list[int]]]:
    """Generate by `workbench.evaluate.generator`."""
    generator = Generator(load_model(folder), sequences=options.batch)
    return lambda tokens: [one.tokens for one in generator.generate([Prompt(p, tokens) for p in prompts.tolist()])]


def theirs(folder: Path, prompts: torch.Tensor, options: argparse.Namespace) -> Callable[[int], list[list[int]]]:
    """Generate by `transformers`, all sequences in one batch."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None

    def generate(tokens: int) -> list[list[int]]:
        with torch.inference_mode():
            mask = torch.ones_like(prompts)
            out = model.generate(prompts, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
        return out[:, prompts.shape[1] :].tolist()

    return generate


def measure(generate: Callable[[int], list[list[int]]], tokens: int) -> Measured:
    """Generate once."""
    started, used = time.perf_counter(), time.process_time()
    made = generate(tokens)
    return Measured(time.perf_counter() - started, time.process_time() - used, made)


def summary(found: dict[str, list[Measured]]) -> dict[str, Any]:
    """Medians, their ratios with the range over the rounds, and whether all tokens are the same."""
    result: dict[str, Any] = {}
    for name in ("seconds", "processor_seconds"):
        times = {side: [getattr(one, name) for one in each] for side, each in found.items()}
        result[name] = {side: round(statistics.median(each), 2) for side, each in times.items()}
        ratios = [theirs / ours for ours, theirs in zip(times["ours"], times["transformers"], strict=True)]
        result[f"ratio_of_{name}"] = [round(f(ratios), 2) for f in (statistics.median, min, max)]
    made = [one.tokens for each in found.values() for one in each]
    result["generated_tokens"] = sum(len(tokens) for tokens in made[0])
    result["same_tokens"] = all(tokens == made[0] for tokens in made)
    return result


if __name__ == "__main__":
    main()
