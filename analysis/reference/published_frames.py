"""Published results of others as frames like our own: lm-eval result files from any folder, and published tables.

`load_lm_eval` reads a folder of result files, `load_pythia` one of Pythia's with what is published about it, and
`tinyllama_milestones` gives TinyLlama's table. All give the columns of `analysis.load.load_study` and `source`, the
file or page of each value, so that they can be laid over a study's curves or fitted. What the files do not say
(seeds, commit, data) stays missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd

from analysis.frames import EXCLUDED
from analysis.load import with_missing
from analysis.reference.facts import REFERENCE_COLUMNS, Checkpoints, Facts, ModelRule, Row, TokenRule, read_facts
from analysis.reference.folder import latest_rows, mixed_notes, read_folder, refuse_mixed_shots, with_shots
from analysis.reference.published import PYTHIA_SIZES, PYTHIA_TOKENS_PER_STEP, tinyllama_milestones

__all__ = ["load_lm_eval", "load_pythia", "tinyllama_milestones"]


def load_lm_eval(
    path: Path | str,
    *,
    study: str = "reference",
    model: ModelRule | None = None,
    tokens: TokenRule | None = None,
    facts: Facts | None = None,
    annealed: Literal["none", "last"] = "none",
    shots: int | None = None,
) -> pd.DataFrame:
    r"""lm-eval's result files as a tidy frame, one row per checkpoint and metric.

    Today's format and the one before 0.4 are read alike, groups among the tasks, metrics named as
    `piqa/acc_norm`. A checkpoint is a model and its revision; its results may be spread over several files. Where
    two files have the same result, the later is used and the other is named; one on part of the documents (`limit`)
    never replaces one on all. Patterns are searched in the text
    `<model>@<revision> <file>`, such as `EleutherAI/pythia-70m@step1000 70m/step1000.json`.

    Parameters
    ----------
    path
        A result file, or a folder that is searched for `*.json` with all below it.
    study
        Value of the column `study`.
    model
        Short names of the models: a pattern whose first group is the name, or a function of the file; None takes
        the last part of the model that lm-eval was told to load.
    tokens
        Tokens trained on: (pattern, factor) multiplies the number in the pattern's first group,
        `(r"step(\d+)", 2_097_152)`; or a function of the file. None takes the values of the file and `facts`.
    facts
        What the files lack: a frame whose key columns (one or more of model, revision and file) identify the
        results a row describes, and whose other columns (params, params_non_embedding, tokens, unique_tokens,
        epochs, flops, annealed, seed_init, seed_data, commit, data_fingerprint) fill the result's; or
        a mapping of short names to such values. Its tokens take precedence over the rule's. Rows of the frame that
        match no result are named; a mapping may have more models than the folder.
    annealed
        "last" marks the checkpoint with the most tokens of each model as cooled down, as the end of a cosine is;
        "none" marks only those that `facts` marks.
    shots
        Keep only results with this number of few-shot examples; None takes all, if each task was scored with one
        number.

    Returns
    -------
    DataFrame
        The columns of `analysis.load.load_study` (point, stage and trajectory are the model's short name,
        checkpoint is `<model>@<revision>`, run_id is None, counts are tokens and parameters) and `source`, the
        file. Where a checkpoint was not scored on a metric, `value` and `stderr` are NaN. `attrs["excluded"]` says
        what was left out and why, as a tuple of texts.

    Raises
    ------
    ValueError
        The folder does not exist, a file cannot be read (it is named), the folder holds no results, a rule matches no
        file, two checkpoints have one name and the same tokens, `facts` is ambiguous, a task was scored with different
        numbers of examples, or two files without a date disagree.

    References
    ----------
    EleutherAI's lm-evaluation-harness 0.4.13, `lm_eval/result_schema.py`; 0.3, `lm_eval/evaluator.py`.

    Examples
    --------
    >>> frame = load_lm_eval("evals", tokens=(r"step(\d+)", 2_097_152),
    ...                      facts={"pythia-70m": {"params": 70_426_624}})  # doctest: +SKIP
    """
    files, excluded = read_folder(Path(path))
    if shots is not None:
        files, dropped = with_shots(files, shots)
        excluded += dropped
    refuse_mixed_shots(files)
    checkpoints = Checkpoints(study, model, tokens, read_facts(facts))
    rows, superseded = latest_rows([row for file in files for row in checkpoints.rows(file)])
    frame = _as_frame(rows)
    if annealed == "last":
        frame["annealed"] |= frame["tokens"] == frame.groupby("model")["tokens"].transform("max")
    frame.attrs[EXCLUDED] = (*excluded, *mixed_notes(files), *superseded, *checkpoints.notes())
    return frame


def load_pythia(path: Path | str, *, study: str = "reference/pythia") -> pd.DataFrame:
    """Read result files of Pythia's checkpoints, with their published sizes and tokens.

    A step is 2,097,152 tokens; the last checkpoint of a size (step 143,000) ends its cosine and counts as annealed.

    Parameters
    ----------
    path
        A folder of result files that name the models as `EleutherAI/pythia-70m-deduped`, such as `evals/pythia-v1`
        of EleutherAI's repository.
    study
        Value of the column `study`.

    Returns
    -------
    DataFrame
        As `load_lm_eval` gives it.

    Raises
    ------
    ValueError
        As in `load_lm_eval`.

    References
    ----------
    Biderman et al. 2023, "Pythia: A Suite for Analyzing Large Language Models Across Training and Scaling", table 1.
    """
    sizes = {
        f"pythia-{size}{suffix}": {"params": total, "params_non_embedding": inner}
        for size, (total, inner) in PYTHIA_SIZES.items()
        for suffix in ("", "-deduped")
    }
    return load_lm_eval(
        path,
        study=study,
        # The repository's files call the models `pythia-v1.1-70m-deduped`.
        model=lambda file: file.model.rsplit("/", 1)[-1].replace("-v1.1", ""),
        tokens=(r"step(\d+)", PYTHIA_TOKENS_PER_STEP),
        facts=sizes,
        annealed="last",
    )


def _as_frame(rows: list[Row]) -> pd.DataFrame:
    frame = with_missing(pd.DataFrame(rows, columns=pd.Index(REFERENCE_COLUMNS)))
    frame.loc[frame["value"].isna(), "source"] = None
    return frame.sort_values(["metric", "params", "trajectory", "tokens", "annealed"], ignore_index=True)
