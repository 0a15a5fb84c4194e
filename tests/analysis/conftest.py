import importlib.util
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

spec = importlib.util.spec_from_file_location(
    "outputs_tree", Path(__file__).parents[1] / "tracking" / "outputs_tree.py"
)
outputs_tree = sys.modules.get("outputs_tree") or importlib.util.module_from_spec(spec)
if "outputs_tree" not in sys.modules:
    sys.modules["outputs_tree"] = outputs_tree
    spec.loader.exec_module(outputs_tree)
if "servers" not in sys.modules:
    spec = importlib.util.spec_from_file_location("servers", Path(__file__).parents[1] / "tracking" / "servers.py")
    sys.modules["servers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["servers"])
if "made_budgets" not in sys.modules:
    spec = importlib.util.spec_from_file_location("made_budgets", Path(__file__).with_name("made_budgets.py"))
    sys.modules["made_budgets"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["made_budgets"])

LIBRARY_WARNINGS = (
    # MLflow 3.17 maps its tables with an option that SQLAlchemy 2.1 deprecates.
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for warning in LIBRARY_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture
def root(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="session")
def published(tmp_path_factory, empty_database):
    """A made-up study of four sizes and four budgets in an MLflow store, and what was put into it."""
    from workbench.tracking.mlflow import default_uri, publish_study

    outputs = tmp_path_factory.mktemp("outputs")
    shutil.copy(empty_database, outputs / "mlflow.db")
    made = outputs_tree.make_study(outputs, row_every=50)
    publish_study(made.layout, made.study)
    return made, default_uri(made.layout)


@pytest.fixture
def frame(published):
    from analysis.load import load_study

    made, uri = published
    return load_study(made.study, uri)


@pytest.fixture
def law_frame():
    """Cooled-down points exactly on a known law, several seeds, and trunk points that lie above it."""
    from analysis.load import FRAME_COLUMNS

    rows = []
    for model, params in outputs_tree.SIZES.items():
        for tokens in outputs_tree.BUDGETS:
            for seed in (0, 1):
                for annealed in (True, False):
                    value = outputs_tree.bits_per_byte(params, tokens) + (0 if annealed else 0.1)
                    rows.append(
                        {
                            **dict.fromkeys(FRAME_COLUMNS),
                            "study": "law",
                            "point": f"{model}-{tokens}-{seed}",
                            "stage": f"{model}-{tokens}-{seed}-{annealed}",
                            "trajectory": f"{model}-{seed}",
                            "run_id": f"run-{model}-{tokens}-{seed}-{annealed}",
                            "model": model,
                            "params": params + 1000,
                            "params_non_embedding": params,
                            "tokens": tokens,
                            "seed_init": seed,
                            "seed_data": seed,
                            "annealed": annealed,
                            "metric": "heldout/prose/bits_per_byte",
                            "value": value,
                            "stderr": 0.03,
                            "eval_id": "e",
                            "checkpoint": f"{model}-{tokens}-{seed}-{annealed}",
                        }
                    )
    return pd.DataFrame(rows, columns=list(FRAME_COLUMNS))
