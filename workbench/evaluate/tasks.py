"""lm-eval's task objects: built once per suite and data, scored for one checkpoint after another."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from workbench.config.schema import SuiteConfig
from workbench.evaluate.suite import EvaluationError, TaskSpec, fill_in

FEWSHOT_SEED = 1234
"""lm-eval's own default."""

BOOTSTRAP_ITERATIONS = 200
"""Number of resamples for metrics whose standard error lm-eval bootstraps; 0 would remove the analytic ones as well."""


def load_task(spec: TaskSpec, suite: SuiteConfig, metadata: dict[str, Any]) -> Task:
    """Build one task with its data and all its requests.

    Parameters
    ----------
    spec
        The task.
    suite
        Sets few-shot examples and the limit; its few-shot number takes precedence over the task's own, even 0.
    metadata
        Passed to the task's `custom_dataset`; includes `heldout_dir`.

    Raises
    ------
    EvaluationError
        Anything failed, such as reaching the hub: one line that names the task.
    """
    with naming(spec.name), _quiet():
        config = load_yaml(spec.path, resolve_func=True)
        config |= {key: fill_in(config[key], spec.source) for key in ("task", "dataset_kwargs") if key in config}
        if suite.num_fewshot is not None:
            if suite.num_fewshot and spec.source is not None:
                raise ValueError(f"num_fewshot={suite.num_fewshot}, but held-out text has no examples to give")
            config["num_fewshot"] = suite.num_fewshot
        manager = TaskManager(include_defaults=False, metadata=metadata)
        try:
            (task,) = manager.load([config])["tasks"].values()
        except ValueError as error:
            # The message is part of the suite's code, whose hash is in every evaluation's id.
            if not str(error).endswith("too short to ask a question of"):
                raise
            more = (
                "score its loss alone (evaluation=heldout), or hold more text out (data.heldout_percent, of a corpus "
                "data.sources.*.heldout_bytes)"
            )
            raise ValueError(f"{error}: {more}") from error
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(FEWSHOT_SEED)
        task.build_all_requests(limit=suite.limit)
        _keep_requests(task)
        return task


def score_task(task: Task, name: str, lm: LM, suite: SuiteConfig) -> dict[str, Any]:
    """lm-eval's result of one task for one model, samples included.

    Raises
    ------
    EvaluationError
        Anything failed: one line that names the task.
    """
    with naming(name), _quiet():
        result = evaluate(
            lm, {"tasks": {name: task}}, limit=suite.limit, bootstrap_iters=BOOTSTRAP_ITERATIONS, log_samples=True
        )
        assert result is not None
        return dict(result)


@contextlib.contextmanager
def naming(subject: str) -> Iterator[None]:
    """Turn any failure into an `EvaluationError` of one line that begins with the subject's name."""
    try:
        yield
    except EvaluationError:
        raise
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise EvaluationError(f"evaluation of {subject} failed: {type(error).__name__}: {reason}") from error


def _keep_requests(task: Task) -> None:
    """Let lm-eval's `evaluate` use the requests already built; only the model changes."""

    def reset(**_: Any) -> None:
        for instance in task.instances:
            instance.resps.clear()
            instance.filtered_resps.clear()

    task.build_all_requests = reset


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars, prints and advice; keep lm-eval's bootstrap in this process."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub")]
    levels, forking = [logger.level for logger in loggers], os.environ.get("DISABLE_MULTIPROC")
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if forking is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = forking
