"""How long a report of many checkpoints takes, from its frame to the files and the page.

    python benchmarks/large_report.py --checkpoints 1000

The frame is made: losses on a known law with noise, of five sizes, ten budgets and as many seeds as needed, on trunks and
cooled down, by two metrics. What `workbench report` does besides, composing the study, loading the frame and storing the
files with MLflow, is not in it.
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from waits import processor

from analysis.load import FRAME_COLUMNS
from analysis.report import analyse_study, format_table, page_of, summary_table

SIZES = [30_000 * 2**i for i in range(5)]
BUDGETS = [250_000 * 2**i for i in range(10)]


def main() -> None:
    """Measure each part and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=1000, help="a multiple of 100")
    frame = make_frame(parser.parse_args().checkpoints)
    print(f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{frame['checkpoint'].nunique():,} checkpoints, {len(frame):,} rows")
    began = time.perf_counter(), time.process_time()

    def say(what: str) -> None:
        print(f"{what:<24}{time.perf_counter() - began[0]:>10.2f}{time.process_time() - began[1]:>14.2f}", flush=True)

    print(f"{'up to':<24}{'wall s':>10}{'processor s':>14}")
    results = analyse_study(frame)
    say("figures, fits, tables")
    with tempfile.TemporaryDirectory() as folder:
        results.save(Path(folder) / "figures", Path(folder) / "fits")
        say("files")
    page_of(results, frame)
    say("page")
    format_table(summary_table(frame))
    say("printed table")


def make_frame(checkpoints: int) -> pd.DataFrame:
    """Make a study's frame, half of its checkpoints on trunks."""
    noise = np.random.default_rng(0)
    rows = [
        row_of(params, tokens, seed, annealed, source, 0.01 * noise.standard_normal())
        for params in SIZES
        for seed in range(checkpoints // (2 * len(SIZES) * len(BUDGETS)))
        for tokens in BUDGETS
        for annealed in (True, False)
        for source in ("prose", "code")
    ]
    return pd.DataFrame(rows, columns=list(FRAME_COLUMNS))


def row_of(params: int, tokens: int, seed: int, annealed: bool, source: str, noise: float) -> dict[str, object]:
    """Make one checkpoint's loss on one source."""
    trajectory = f"{params}-{seed}"
    loss = 1.2 + 60 / params**0.42 + 350 / tokens**0.44 + (0 if annealed else 0.08)
    return {
        "study": "made",
        "point": f"model=m{params},tokens={tokens},seed={seed}",
        "stage": f"{trajectory}-{tokens}" if annealed else trajectory,
        "trajectory": trajectory,
        "run_id": f"run-{trajectory}-{tokens if annealed else 0}",
        "model": f"m{params}",
        "params": params + 1000,
        "params_non_embedding": params,
        "tokens": tokens,
        "unique_tokens": tokens,
        "epochs": 1.0,
        "flops": 6.0 * params * tokens,
        "seed_init": seed,
        "seed_data": seed,
        "annealed": annealed,
        "metric": f"heldout/{source}/bits_per_byte",
        "value": loss + noise - (0.3 if source == "code" else 0),
        "stderr": 0.03,
        "eval_id": "e" * 16,
        "checkpoint": f"/made/{trajectory}/{tokens}/{'end' if annealed else 'trunk'}",
        "commit": "c0ffee",
        "data_fingerprint": "d" * 16,
        "mixture": "[]",
        "kinds": "pretrain",
        "start_tokens": 0,
    }


if __name__ == "__main__":
    main()
