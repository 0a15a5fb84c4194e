"""The verb `import`: results of others."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli.shared import default_layout, print_table
from workbench.config.secret_urls import refuse_secrets

if TYPE_CHECKING:
    import pandas as pd

USAGE = "workbench import FOLDER study=reference/pythia family=pythia"
KEYS = ("study", "family", "model", "tokens", "facts", "annealed", "shots", "tracking_uri")


HELP = rf"""example:
  {USAGE}

study=NAME                    name of the study and of its MLflow experiment, such as reference/mine
family=pythia                 Pythia's published sizes and tokens
tokens='step(\d+)*2097152'    a pattern with a number in its group, and the tokens of one unit
model='runs/([^/]+)/'         a pattern with the model's short name in its group
facts=FILE.csv                what the files lack, by model, revision or file (docs/reference.md)
annealed=last                 count each model's checkpoint with the most tokens as cooled down
shots=0                       take only results with this many few-shot examples
tracking_uri=URI              default: MLFLOW_TRACKING_URI, else SQLite in the outputs

Patterns are searched in `<model>@<revision> <file>`.
Next: `workbench report NAME`.
"""


def import_results(parsed: argparse.Namespace) -> int:
    """Import lm-eval result files."""
    from workbench.tracking.mlflow import default_uri
    from workbench.tracking.published_results import import_reference

    folder, given = _arguments(parsed.overrides)
    layout = default_layout()
    uri = given.pop("tracking_uri", None) or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(layout)
    refuse_secrets("tracking_uri", uri)
    frame = _load(folder, given)
    for text in frame.attrs["excluded"]:
        print(text)
    report = import_reference(layout, frame, uri)
    _print_models(frame)
    print(
        f"sent: {report.runs} runs, {report.checkpoints} checkpoints ({report.replaced} replaced), "
        f"{report.metrics} values and standard errors"
    )
    if report.others:
        print(f"kept: {report.others} checkpoints of earlier imports that are not in {folder}")
    print(f"MLflow: experiment {frame['study'].iloc[0]} (tracking URI {uri})")
    return 0


def _arguments(words: list[str]) -> tuple[Path, dict[str, str]]:
    folders = [word for word in words if word.split("=")[0] not in KEYS]
    unknown = [word for word in folders if "=" in word and not Path(word).exists()]
    if unknown:
        raise ValueError(f"import does not know {unknown[0]!r}: give {', '.join(f'{key}=' for key in KEYS)}")
    if len(folders) != 1:
        raise ValueError(f"import takes one folder of result files, but was given {folders}: {USAGE}")
    given = dict(word.split("=", 1) for word in words if word not in folders)
    if "study" not in given:
        raise ValueError(f"import needs the study's name: {USAGE}")
    return Path(folders[0]), given


def _load(folder: Path, given: dict[str, str]) -> pd.DataFrame:
    from analysis.reference import load_lm_eval, load_pythia

    family = given.pop("family", None)
    if family is None:
        return load_lm_eval(folder, **_rules(given))
    if family != "pythia":
        raise ValueError(f"family={family!r}: pythia alone is known; give tokens= and facts= instead")
    others = [key for key in given if key != "study"]
    if others:
        raise ValueError(f"family=pythia says {others[0]} by itself: leave {others[0]}= out")
    return load_pythia(folder, study=given["study"])


def _rules(given: dict[str, str]) -> dict[str, Any]:
    """Arguments of `load_lm_eval`."""
    import pandas as pd

    rules: dict[str, Any] = {key: given[key] for key in ("study", "model") if key in given}
    if "tokens" in given:
        rules["tokens"] = _token_rule(given["tokens"])
    if "facts" in given:
        # A revision such as 1000 is a name and no number.
        rules["facts"] = pd.read_csv(given["facts"], dtype=dict.fromkeys(("model", "revision", "file"), str))
    if "annealed" in given:
        if given["annealed"] not in ("none", "last"):
            raise ValueError(f"annealed={given['annealed']}: give none or last")
        rules["annealed"] = given["annealed"]
    if "shots" in given:
        if not given["shots"].isdecimal():
            raise ValueError(f"shots={given['shots']}: give a number of few-shot examples, such as 0")
        rules["shots"] = int(given["shots"])
    return rules


def _token_rule(text: str) -> tuple[str, float]:
    pattern, _, factor = text.rpartition("*")
    try:
        return pattern, float(factor.replace("_", ""))
    except ValueError:
        raise ValueError(f"tokens={text}: give a pattern and the tokens of one, as 'step(\\d+)*2097152'") from None


def _print_models(frame: pd.DataFrame) -> None:
    from workbench.tracking.names import tokens_label

    rows: list[list[str]] = []
    for model, results in frame.groupby("model", sort=False):
        sizes, tokens = results["params"].dropna().tolist(), results["tokens"].tolist()
        size = f"{int(sizes[0]):,}" if sizes else "unknown"
        span = f"{tokens_label(min(tokens))} to {tokens_label(max(tokens))}"
        counts = [results["checkpoint"].nunique(), results["metric"].nunique(), results["value"].notna().sum()]
        rows.append([str(model), size, span, *map(str, counts)])
    print_table(["model", "parameters", "tokens", "checkpoints", "metrics", "results"], rows)
