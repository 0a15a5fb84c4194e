"""The verb `audit`: what a prepared store's files say for themselves."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path


def audit(parsed: argparse.Namespace) -> int:
    """Check a store by its files alone; 1 where something is wrong."""
    from workbench.data import store_audit

    if len(parsed.overrides) != 1:
        raise ValueError("audit takes the folder of a prepared store, such as outputs/data/<fingerprint>")
    directory = Path(parsed.overrides[0])
    if parsed.documents < 1:
        raise ValueError(f"--documents={parsed.documents}: look at 1 at least")
    sample = store_audit.Sample(documents=parsed.documents, seed=parsed.seed, whole=parsed.whole)
    checks: list[store_audit.Check] = []
    for check in store_audit.audit(directory, sample):
        checks.append(check)
        if not parsed.json:
            print("\n".join(store_audit.describe(check)), flush=True)
    wrong = [check.name for check in checks if check.state == store_audit.WRONG]
    if parsed.json:
        print(
            json.dumps(
                {"store": str(directory), "sample": asdict(sample), "wrong": wrong, "checks": [*map(asdict, checks)]}
            )
        )
    else:
        amount = "everything" if sample.whole else f"a sample (seed {sample.seed}; --whole takes everything)"
        print(f"{directory}: {', '.join(wrong) or 'nothing'} wrong; {amount} was looked at")
    return 1 if wrong else 0
