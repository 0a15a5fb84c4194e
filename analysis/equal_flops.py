"""Ways to train one size against a plain one, at equal FLOPs: what the same compute buys without them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.columns import truths
from analysis.frames import refuse_mixed_studies, require_columns


def compare_at_equal_flops(frame: pd.DataFrame, metric: str, *, baseline: str) -> pd.DataFrame:
    """Cooled-down points of the baseline's size against the baseline, which is interpolated in log FLOPs.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one study.
    metric
        What is compared, such as `heldout/prose/bits_per_byte`.
    baseline
        Label of the model that is trained plainly, such as `m0_1`.

    Returns
    -------
    DataFrame
        Columns model, tokens, flops, value (mean over seeds), baseline (its value at so many FLOPs, on a straight line
        between its two budgets around them; missing beyond its budgets) and difference (value minus baseline); sorted by
        model and tokens.

    Raises
    ------
    ValueError
        The frame holds several studies, or no cooled-down point of the baseline with this metric.
    """
    require_columns(frame, ("model", "metric", "value", "annealed", "tokens", "flops", "params_non_embedding"))
    refuse_mixed_studies(frame)
    known = frame.loc[(frame["metric"] == metric) & truths(frame, "annealed") & frame["value"].notna()]
    plain = known.loc[known["model"] == baseline]
    if plain.empty:
        labels = ", ".join(sorted(set(known["model"].astype(str)))) or "none"
        raise ValueError(f"no cooled-down point of {baseline!r} has {metric}; models that have: {labels}")
    same_size = known["params_non_embedding"] == plain["params_non_embedding"].iloc[0]
    others = known.loc[same_size & (known["model"] != baseline)]
    line = plain.groupby("flops", as_index=False)["value"].mean().sort_values("flops")
    table = others.groupby(["model", "tokens", "flops"], as_index=False)["value"].mean()
    table["baseline"] = np.interp(
        np.log(table["flops"]), np.log(line["flops"]), line["value"], left=np.nan, right=np.nan
    )
    table["difference"] = table["value"] - table["baseline"]
    return table.sort_values(["model", "tokens"], ignore_index=True)
