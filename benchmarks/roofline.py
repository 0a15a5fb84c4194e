"""What a training step must take at least on a GPU, term by term: its operations over the peak, its bytes over the bandwidth.

    python benchmarks/roofline.py
    python benchmarks/roofline.py --model m300 --batch 32 --context 1024 --vocab 32000 --tflops 312 --gigabytes 2039

Nothing is measured here and no GPU is needed: it counts from the model's shape what a step in bf16 with fp32 masters does,
for one GPU that holds the whole model, without activation checkpointing. The default device is an H100 SXM by NVIDIA's data
sheet: 989 TFLOP/s dense in bf16, 3,350 GB/s. Products are bound by operations, all else by bytes. "Plain" counts every
operator's reads and writes of memory, as eager PyTorch makes them; "fused" those that are left where compiled code or fused
kernels keep what passes between neighbouring operators in registers.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import yaml

from workbench.config.schema import ModelConfig
from workbench.study.flops import block_matrices, count_parameters, training_flops_per_token

BF16, FP32 = 2, 4


@dataclass(frozen=True)
class Term:
    """One part of a step, in floating-point operations and bytes."""

    name: str
    flops: float = 0.0
    plain_bytes: float = 0.0
    fused_bytes: float = 0.0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tinyllama_1b", help="a file of conf/model")
    parser.add_argument("--batch", type=int, default=8, help="sequences of one pass")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--tflops", type=float, default=989.0, help="the device's dense peak in bf16")
    parser.add_argument("--gigabytes", type=float, default=3350.0, help="the device's memory bandwidth, GB/s")
    options = parser.parse_args()
    model = read_model(options.model, options.vocab, options.context)
    tokens = options.batch * options.context
    peak, bandwidth = options.tflops * 1e12, options.gigabytes * 1e9
    total = training_flops_per_token(model) * tokens
    print(f"{options.model}, {options.batch} x {options.context} tokens: {total / tokens / 1e9:.2f} GFLOP a token\n")
    print("| term | TFLOP | GB, plain | GB, fused | ms, plain | ms, fused |\n|---|---|---|---|---|---|")
    sums = [0.0, 0.0]
    for term in terms(model, tokens):
        times = [max(term.flops / peak, each / bandwidth) * 1e3 for each in (term.plain_bytes, term.fused_bytes)]
        sums = [a + b for a, b in zip(sums, times, strict=True)]
        numbers = (term.flops / 1e12, term.plain_bytes / 1e9, term.fused_bytes / 1e9, *times)
        print(f"| {term.name} | " + " | ".join(f"{number:.1f}" if number else "" for number in numbers) + " |")
    print(f"| all | {total / 1e12:.1f} | | | {sums[0]:.0f} | {sums[1]:.0f} |")
    for name, milliseconds in zip(("plain", "fused"), sums, strict=True):
        print(f"\n{name}: {total / peak / milliseconds * 1e3:.0%} of the peak at most", end="")
    print(f"\n\n50% is {total / peak / 0.5 * 1e3:.0f} ms, 60% is {total / peak / 0.6 * 1e3:.0f} ms")


def read_model(name: str, vocab: int, context: int) -> ModelConfig:
    """Read a shape of conf/model, whose vocabulary is the tokenizer's."""
    file = Path(__file__).resolve().parents[1] / "conf" / "model" / f"{name}.yaml"
    values = yaml.safe_load(file.read_text())
    del values["defaults"]
    return ModelConfig(**{**values, "vocab_size": vocab, "context_tokens": context})


def terms(model: ModelConfig, tokens: int) -> list[Term]:
    """Parts of a step: forward, backward, clipping and update."""
    width, mlp, layers, vocab = model.width, model.mlp_width, model.num_layers, model.vocab_size
    heads, rows = model.num_heads + 2 * model.num_kv_heads, tokens * layers
    parameters = count_parameters(model).total

    def passes(elements: float, plain: int, fused: int, size: int = BF16) -> dict[str, float]:
        return {"plain_bytes": elements * plain * size, "fused_bytes": elements * fused * size}

    attention = 3 * 4 * layers * model.context_tokens * width * tokens
    return [
        Term("products of the blocks", flops=6 * layers * block_matrices(model) * tokens),
        # Half of the scores lie in the future: kernels that know it skip them, though they count in full above.
        Term("attention's products, the causal half", flops=attention / 2),
        Term("products of the head", flops=6 * vocab * width * tokens),
        # Read and written: x, its square's mean and y forward; x, dy and dx backward; in fp32 where not fused.
        Term("norms, two a block", **passes(2 * rows * width, 12, 5)),
        Term("residual additions, two a block", **passes(2 * rows * width, 6, 2)),
        Term("rotations", **passes(rows * (heads - model.num_kv_heads) * model.head_width, 12, 4)),
        # silu, times up, and their backward: gate, up, product and three gradients.
        Term("SwiGLU", **passes(rows * mlp, 14, 8)),
        # Logits of all tokens in fp32, softmax, loss and their gradients; by chunks they stay in the cache.
        Term("softmax and loss", **passes(tokens * vocab, 6, 0, FP32)),
        Term("weights cast to bf16, gradients back", **passes(parameters, 3, 3, FP32)),
        Term("gradients' norm and clipping", **passes(parameters, 3, 1, FP32)),
        Term("AdamW: weight, gradient, two moments", **passes(parameters, 12, 7, FP32)),
    ]


if __name__ == "__main__":
    main()
