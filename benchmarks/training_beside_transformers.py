"""Training steps of the studies' models on a CPU, beside those of `transformers` and the processor's own limit.

    python benchmarks/training_beside_transformers.py
    python benchmarks/training_beside_transformers.py --models m1 --rounds 3 --threads 2

Each side is a process of its own, and the sides take turns: our step as studies run it (eager, and compiled, each also with
`numerics.attention=blocks`), the step of
`transformers`' Llama of the same shape (eager, and compiled) with its own loss, clipping and PyTorch's fused AdamW, and the
matrix products of one step alone, by the faster of the two libraries that PyTorch carries. All keep the memory that they
free (`workbench.train.freed_memory`), which `transformers` by itself would not. On one thread, speeds are in
tokens per second of the processor's time, which other work on the machine hardly changes; on several, of wall time. The
last column is what a step reaches of the rate of its products: the model's FLOPs (`workbench.study.flops`) over the step's
time, over the products' FLOPs a second.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, int]] = {  # conf/model, with the vocabulary of the embedded sets' tokenizer
    "m0_1": {"width": 64, "layers": 2, "heads": 2, "kv-heads": 2, "mlp": 176},
    "m0_3": {"width": 96, "layers": 3, "heads": 3, "kv-heads": 3, "mlp": 240},
    "m1": {"width": 128, "layers": 4, "heads": 4, "kv-heads": 4, "mlp": 432},
    "w256": {"width": 256, "layers": 6, "heads": 8, "kv-heads": 8, "mlp": 688},  # 6.8M parameters
}
ENTERED = ExitStack()
"""Holds what a step is computed under until the process ends; a context that nobody holds is left at once."""
SIDES = (
    "ours",
    "ours compiled",
    "ours by blocks",
    "ours by blocks compiled",
    "transformers",
    "transformers compiled",
    "products",
)


def main() -> None:
    """Run all sides in turn and print a table, or one of them and print its speed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["m0_3", "m1", "w256"], choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=6.0, help="of one side in one round")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=SIDES)
    parser.add_argument("--products", default="onednn", help="of ours, as numerics.products")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options, options.models[0], options.side)))
        return
    print(
        f"{processor()}, {os.cpu_count()} cores, {options.threads} threads, {options.batch} x {options.context} tokens"
    )
    for name in options.models:
        found: dict[str, list[float]] = {side: [] for side in options.sides}
        for _ in range(options.rounds):
            for side in options.sides:
                found[side].append(run_side(options, name, side))
        print_table(options, name, found)


def run_side(options: argparse.Namespace, name: str, side: str) -> float:
    """Measure one side in a process of its own: tokens per second, or FLOPs per second of the products."""
    asked = ("threads", "seconds", "batch", "context", "vocab", "products")
    values = [word for key in asked for word in (f"--{key}", str(getattr(options, key)))]
    command = [sys.executable, __file__, "--side", side, "--models", name, *values]
    # Inductor's key does not name the instructions: code for AVX-512 would be run again under AVX2.
    instructions = " ".join(os.environ.get(name, "") for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"))
    environment = os.environ | {
        "OMP_NUM_THREADS": str(options.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_COMPILE_CACHE_KEY_TAG": f"{processor()} {instructions} {side}",
    }
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return json.loads(printed.splitlines()[-1])


def print_table(options: argparse.Namespace, name: str, found: dict[str, list[float]]) -> None:
    """Print medians and what they are of the products' rate."""
    from workbench.study.flops import training_flops_per_token

    flops = training_flops_per_token(make_stage(options, name).model)
    products = statistics.median(found["products"]) if "products" in found else None
    print(
        f"\n{name}: {flops / 1e6:.2f} MFLOP a token" + (f", products {products / 1e9:.1f} GFLOP/s" if products else "")
    )
    for side, values in found.items():
        if side == "products":
            continue
        speed, low, high = statistics.median(values), min(values), max(values)
        share = f"{speed * flops / products:8.1%} of the products' rate" if products else ""
        ours = f"  ours is {statistics.median(found['ours']) / speed:.2f} times" if "ours" in found else ""
        print(f"  {side:<24}{speed:>10,.0f} tokens/s ({low:,.0f} to {high:,.0f}) {share}{ours}")


def measure(options: argparse.Namespace, name: str, side: str) -> float:
    """Tokens (or, of products, FLOPs) per second of one thread's processor time, or of wall time on several."""
    import torch

    from workbench.train.freed_memory import keep_freed_memory

    torch.set_num_threads(options.threads)
    keep_freed_memory()
    clock = time.process_time if options.threads == 1 else time.perf_counter
    if side == "products":
        step, work = products_step(options, name)
    elif side.startswith("ours"):
        step, work = our_step(options, name, side), options.batch * options.context
    else:
        step, work = their_step(options, name, compiled=side.endswith("compiled")), options.batch * options.context
    for _ in range(3):
        step()
    times: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < options.seconds or len(times) < 5:
        start = clock()
        step()
        times.append(clock() - start)
    return work / statistics.median(times)


def make_stage(options: argparse.Namespace, name: str, side: str = "ours") -> Any:
    """A stage of the shape and side, as `benchmarks/training.py` makes it."""
    sys.path.insert(0, str(Path(__file__).parent))
    from training import make_stage as stage_of

    shape = {key.replace("-", "_"): value for key, value in SHAPES[name].items()}
    attention, compiled = "blocks" if "by blocks" in side else "sdpa", side.endswith("compiled")
    rest = {"precision": "fp32", "attention": attention, "micro_batch": None, "activation_checkpointing": False}
    values = {"vocab": options.vocab, "context": options.context, "batch": options.batch, "threads": options.threads}
    rest |= {"compile_unit": "model", "cross_entropy": "own", "products": options.products}
    return stage_of(argparse.Namespace(**shape, **rest, **values, compile=compiled))


def our_step(options: argparse.Namespace, name: str, side: str) -> Callable[[], Any]:
    """One step as a stage takes it."""
    import torch

    from workbench.model.matmul import products_by
    from workbench.train.determinism import determinism, is_deterministic
    from workbench.train.throughput import plain_step

    stage, device = make_stage(options, name, side), torch.device("cpu")
    ENTERED.enter_context(determinism(is_deterministic(stage.numerics, device), device))
    ENTERED.enter_context(products_by(stage.numerics.products, stage.numerics.threads))
    return plain_step(stage, device)


def their_step(options: argparse.Namespace, name: str, compiled: bool) -> Callable[[], Any]:
    """One step as a loop around `transformers` takes it: loss, backward, clipping, fused AdamW."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = SHAPES[name]
    config = LlamaConfig(
        vocab_size=options.vocab,
        hidden_size=shape["width"],
        intermediate_size=shape["mlp"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv-heads"],
        max_position_embeddings=options.context,
        attn_implementation="sdpa",
        use_cache=False,
    )
    model: Any = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    called = torch.compile(model, dynamic=False) if compiled else model
    tokens = torch.randint(options.vocab, (options.batch, options.context), generator=torch.manual_seed(0))

    def step() -> None:
        called(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def products_step(options: argparse.Namespace, name: str) -> tuple[Callable[[], Any], float]:
    """All products of a step with weights, forward and backward, by the faster library; and their FLOPs."""
    import torch

    shape, tokens = SHAPES[name], options.batch * options.context
    width, mlp = shape["width"], shape["mlp"]
    qkv = width + 2 * width * shape["kv-heads"] // shape["heads"]
    block = [(width, qkv), (width, width), (width, 2 * mlp), (mlp, width)]
    chunk = min(256, tokens)  # of the head's rows, as the loss takes them
    sizes = [(tokens, *pair) for pair in block] * shape["layers"] + [(chunk, width, options.vocab)] * (tokens // chunk)
    made = {
        size: [torch.randn(a, b) for a, b in ((size[0], size[1]), (size[2], size[1]), (size[0], size[2]))]
        for size in set(sizes)
    }

    def once(product: Callable[[Any, Any], Any]) -> None:
        for size in sizes:
            x, weight, gradient = made[size]
            product(x, weight)
            product(gradient, weight.t())
            product(gradient.t(), x.t())

    def onednn(x: Any, weight: Any) -> Any:
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")

    def seconds(product: Callable[[Any, Any], Any]) -> float:
        times: list[float] = []
        for _ in range(5):
            start = time.perf_counter()
            once(product)
            times.append(time.perf_counter() - start)
        return min(times)

    with torch.no_grad():
        fastest = min((torch.nn.functional.linear, onednn), key=seconds)

    def step() -> None:
        with torch.no_grad():
            once(fastest)

    return step, float(sum(6 * a * b * c for a, b, c in sizes))


def processor() -> str:
    """Name this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
