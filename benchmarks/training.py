"""Training speed of one model: forward, backward, clip and update on random tokens.

    python benchmarks/training.py --width 2048 --layers 22 --heads 32 --kv-heads 4 --mlp 5632 --vocab 32000 \
        --context 2048 --batch 8 --precision bf16 --attention flash_attn --compile

It imports `workbench.config.schema` and `workbench.train` alone, so it runs where Hydra and MLflow are not.
Compare two settings in turn on a quiet machine; a single number says little.
"""

import argparse
import json
import platform

import torch

from workbench.config.schema import ModelConfig, NumericsConfig, TrainingStage
from workbench.study.flops import training_flops_per_token
from workbench.train.throughput import measure_tokens_per_second
from workbench.train.trial_stage import make_trial_stage


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {
        "width": 160,
        "layers": 3,
        "heads": 5,
        "kv-heads": 5,
        "mlp": 432,
        "vocab": 4096,
        "context": 256,
        "batch": 8,
    }
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--compile-unit", default="model")
    parser.add_argument("--cross-entropy", default="own")
    parser.add_argument("--products", default="onednn")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    stage = make_stage(options)
    speed = measure_tokens_per_second(stage, options.seconds)
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    result = {
        **vars(options),
        "tokens_per_second": round(speed),
        "flops_per_second": speed * training_flops_per_token(stage.model),
        "max_memory_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "device": device,
        "torch": torch.__version__,
    }
    print(json.dumps(result))


def make_stage(options: argparse.Namespace) -> TrainingStage:
    """Build a stage of the model asked for; its data are never read."""
    model = ModelConfig(
        name="benchmark",
        num_layers=options.layers,
        width=options.width,
        num_heads=options.heads,
        num_kv_heads=options.kv_heads,
        mlp_width=options.mlp,
        vocab_size=options.vocab,
        context_tokens=options.context,
    )
    return make_trial_stage(
        model,
        batch_sequences=options.batch,
        precision=options.precision,
        peak=1e-5,
        numerics=NumericsConfig(
            threads=options.threads,
            attention=options.attention,
            compile=options.compile,
            compile_unit=options.compile_unit,
            cross_entropy=options.cross_entropy,
            products=options.products,
            activation_checkpointing=options.activation_checkpointing,
            micro_batch_sequences=options.micro_batch,
        ),
    )


if __name__ == "__main__":
    main()
