import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.load import FRAME_COLUMNS
from analysis.reference import load_pythia
from analysis.tasks import task_curves
from analysis.tasks.chance import CHANCE, chance_level

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
TOKENS = [1e9 * 2**power for power in range(9)]


def curve(values, stderr=0.01, metric="piqa/acc", tokens=TOKENS, model="small", **columns):
    """Rows of one curve; a standard error for all points or one each."""
    frame = pd.DataFrame({"tokens": tokens, "value": values, "stderr": stderr})
    facts = dict.fromkeys(FRAME_COLUMNS) | {"study": "s", "model": model, "stage": model, "trajectory": model}
    facts |= {"metric": metric, "params_non_embedding": 100, "annealed": False, **columns}
    return frame.assign(**{key: value for key, value in facts.items() if key not in frame.columns})


def judge(*curves, **options):
    return task_curves(pd.concat(curves, ignore_index=True), **options).iloc[0]


RISING = np.linspace(0.5, 0.82, 9)


def test_a_rising_curve_has_no_marks():
    row = judge(curve(RISING))
    assert (row["not_monotone"], row["saturated"], row["falling"], row["at_chance"], row["marks"]) == (
        *(False,) * 4,
        "",
    )
    assert row["slope"] == pytest.approx(0.04)
    # 1 / sqrt(sum of (x - mean)^2) standard errors, for x = 6, 7, 8.
    assert row["slope_stderr"] == pytest.approx(0.01 / math.sqrt(2))
    # Bonferroni over nine points: z above 2.54, so a rise of 0.04 counts and none of 0.0 does.
    assert (row["chance"], row["above_chance_from"]) == (0.5, 2e9)
    assert (row["points"], row["tokens_first"], row["tokens_last"], row["value_last"]) == (9, 1e9, 256e9, 0.82)


def test_a_fall_beyond_the_noise_is_marked_where_it_is():
    values = RISING.copy()
    values[6] = values[5] - 0.06
    row = judge(curve(values))
    assert row["not_monotone"]
    assert (row["fall"], row["fall_z"]) == (pytest.approx(0.06), pytest.approx(6 / math.sqrt(2)))
    assert (row["fall_from_tokens"], row["fall_to_tokens"]) == (32e9, 64e9)
    assert row["marks"] == "not monotone: 0.7 at 32B tokens, 0.64 at 64B (4.2 standard errors)"
    # 36 pairs: a z of 2.99 is needed, and seeds' noise of 0.02 leaves 1.9.
    assert not judge(curve(values), noise=0.02)["not_monotone"]
    assert not judge(curve(values), noise={"piqa/acc": 0.02})["not_monotone"]
    assert judge(curve(values), noise={"other/acc": 0.02})["not_monotone"]


def test_falls_are_invented_in_at_most_five_of_a_hundred_flat_curves():
    """A flat curve is the hardest of the monotone ones; 400 draws, and their limit at 3 binomial errors."""
    random = np.random.default_rng(0)
    flat = [curve(0.7 + 0.01 * random.standard_normal(9), model=f"m{draw}") for draw in range(400)]
    found = task_curves(pd.concat(flat, ignore_index=True))
    assert 0 < found["not_monotone"].sum() <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)
    # The slope's one-sided interval is exact: 5% fall, within 3 binomial errors.
    assert abs(found["falling"].sum() - 20) <= 3 * math.sqrt(400 * 0.05 * 0.95)


def test_lower_is_better_is_judged_in_relative_terms():
    perplexity = 100 * 0.8 ** np.arange(9)
    row = judge(curve(perplexity, stderr=0.01 * perplexity, metric="lambada_openai/perplexity"))
    assert (row["not_monotone"], row["saturated"], row["at_chance"]) == (False, False, None)
    assert row["slope"] == pytest.approx(-math.log(0.8))
    perplexity[8] = perplexity[7] * 1.1
    row = judge(curve(perplexity, stderr=0.01 * perplexity, metric="lambada_openai/perplexity"))
    assert row["fall_z"] == pytest.approx(math.log(1.1) / 0.01 / math.sqrt(2))
    assert row["fall"] == pytest.approx(perplexity[8] - perplexity[7])


def test_saturated_and_falling():
    flat = np.minimum(RISING, 0.7)
    row = judge(curve(flat, stderr=0.004))
    assert (row["saturated"], row["falling"]) == (True, False)
    assert row["marks"] == "saturated: +0 ± 0.0028 per doubling over the last factor of 4 in tokens"
    # Too noisy to exclude a gain of 0.01 a doubling; a larger gain is excluded.
    assert not judge(curve(flat, stderr=0.01))["saturated"]
    assert judge(curve(flat, stderr=0.01), gain=0.02)["saturated"]
    slow = flat.copy()
    slow[6:] = (0.70, 0.69, 0.68)
    row = judge(curve(slow, stderr=0.005))
    assert (row["not_monotone"], row["saturated"], row["falling"]) == (False, False, True)
    assert row["marks"].startswith("falling: -0.01 ± 0.0035 per doubling")
    assert judge(curve(flat[:2], tokens=TOKENS[:2]))["saturated"] is None


def test_at_chance():
    around = 0.25 + np.array([0.01, -0.01, 0.0, 0.02, -0.02, 0.0, 0.01, 0.0, -0.01])
    row = judge(curve(around, metric="sciq/acc_norm"))
    assert (row["at_chance"], row["saturated"]) == (True, None)
    assert row["marks"] == "at chance (0.25: 4 choices (Welbl et al. 2017))"
    assert not judge(curve(around, metric="sciq/acc"), chance={"sciq": 0.2})["at_chance"]
    # Always the wrong answer and then chance: nothing was lost, though 0.25 falls to 0.
    below = np.array([0.25] * 4 + [0.0] * 5)
    row = judge(curve(below, metric="sciq/acc"))
    assert (row["not_monotone"], row["at_chance"]) == (False, True)
    unknown = judge(curve(below, metric="new_task/acc"))
    assert (unknown["not_monotone"], unknown["at_chance"]) == (True, None)
    assert math.isnan(unknown["chance"])


def test_certain_zeros_are_no_division():
    """An untrained model gets every word wrong, with a standard error of 0."""
    values, errors = [0.0] * 5 + [0.1, 0.2, 0.3, 0.4], [0.0] * 5 + [0.005] * 4
    row = judge(curve(values, errors, metric="lambada_openai/acc", tokens=[0.0, *TOKENS[1:]]))
    assert (row["not_monotone"], row["at_chance"], row["above_chance_from"]) == (False, False, 32e9)


def test_points_without_a_standard_error_are_not_judged():
    row = judge(curve(RISING, math.nan))
    assert (row["points"], row["not_monotone"], row["saturated"], row["at_chance"]) == (0, None, None, None)
    assert row["marks"] == "not judged: fewer than two points with a standard error"
    partly = judge(curve(RISING, [math.nan, *[0.01] * 8]))
    assert (partly["points"], partly["tokens_first"], partly["not_monotone"]) == (8, 1e9, False)
    assert partly["marks"] == "1 point of 9 not judged: no standard error above 0"


def test_a_standard_error_of_zero_is_no_certainty():
    """A dip of 0.01 stood out by infinitely many standard errors."""
    values = RISING.copy()
    values[6] = values[5] - 0.01
    row = judge(curve(values, [*[0.01] * 5, 0.0, 0.0, 0.01, 0.01]))
    assert (row["points"], row["not_monotone"], row["fall_z"]) == (7, False, pytest.approx(math.nan, nan_ok=True))
    assert row["marks"] == "2 points of 9 not judged: no standard error above 0"
    one = judge(curve(values, [*[0.01] * 6, 0.0, 0.01, 0.01]))
    assert one["marks"] == "1 point of 9 not judged: no standard error above 0"
    nothing = judge(curve(values, 0.0))
    assert (nothing["points"], nothing["not_monotone"], nothing["at_chance"]) == (0, None, None)
    assert nothing["marks"] == "not judged: fewer than two points with a standard error"
    # The seeds' noise does not make the documents' known.
    assert judge(curve(values, 0.0), noise=0.02)["points"] == 0


def test_all_right_and_all_wrong_take_the_error_of_the_other_points():
    """None of n right leaves room for about 1/n, which no other point of the same documents is below."""
    values = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0, 1.0, 0.0]
    row = judge(curve(values, [0.0, *[0.02] * 5, 0.0, 0.0, 0.0], metric="lambada_openai/acc"))
    assert (row["points"], row["not_monotone"], row["fall_from_tokens"]) == (9, True, 64e9)
    assert row["fall_z"] == pytest.approx(1 / math.hypot(0.02, 0.02))
    # A perplexity of 1 or a score of 0 in another metric is no count of documents.
    assert judge(curve(values, [0.0, *[0.02] * 5, 0.0, 0.0, 0.0], metric="cola/mcc"))["points"] == 5


def test_what_lies_at_chance_needs_no_standard_error():
    row = judge(curve(np.zeros(9), 0.0, metric="lambada_openai/acc"))
    assert (row["points"], row["at_chance"], row["not_monotone"]) == (0, True, None)
    # A point above chance whose error is not known may be beyond it or not.
    row = judge(curve([0.5] * 8 + [0.6], [0.01] * 8 + [0.0]))
    assert (row["points"], row["at_chance"]) == (8, None)
    assert not judge(curve([0.5] * 7 + [0.6, 0.6], [0.01] * 7 + [0.0, 0.01]))["at_chance"]


def test_trunks_and_cooldowns_are_different_curves():
    trunk = curve(RISING, annealed=False, stage="trunk")
    cooled = [
        curve([value], tokens=[count], annealed=True, stage=f"{count}-{seed}", seed_init=seed, seed_data=seed)
        for value, count in zip(RISING[5:] + 0.05, TOKENS[5:], strict=True)
        for seed in (0, 1)
    ]
    found = task_curves(pd.concat([trunk, *cooled], ignore_index=True))
    assert found["curve"].tolist() == ["cooled_down", "cooled_down", "milestones"]
    assert found["points"].tolist() == [4, 4, 9]
    assert found["seed_init"].tolist()[:2] == [0, 1]
    assert found["stage"].tolist()[2] == "trunk"
    assert set(found["marks"]) == {""}
    assert found.attrs["excluded"] == (
        "8 results are the only one of their stage and metric, which is not a curve of milestones",
    )


def test_rows_without_a_stage_are_a_curve():
    """Result files of others may not say it; a missing key must not lose the rows."""
    values = RISING.copy()
    values[6] = values[5] - 0.06
    found = task_curves(curve(values, stage=None))
    assert found["points"].tolist() == [9]
    assert found["not_monotone"].tolist() == [True]
    assert found.attrs["excluded"] == ()
    nameless = task_curves(curve(values, study=None, stage=None))
    assert nameless["points"].tolist() == [9]


def test_what_is_left_out_is_said():
    rows = curve([*RISING[:7], math.nan, 0.8], tokens=[*TOKENS[:8], math.nan])
    other = curve(RISING, metric="crows_pairs/likelihood_difference")
    found = task_curves(pd.concat([rows, other], ignore_index=True))
    assert found["points"].tolist() == [7]
    assert found.attrs["excluded"] == (
        "1 results not evaluated",
        "1 results of unknown tokens",
        "1 metrics whose direction is unknown, such as crows_pairs/likelihood_difference",
    )


def test_mistakes_are_refused():
    rows = curve(RISING)
    with pytest.raises(ValueError, match="metric 'x/acc' is not in the frame, which has: piqa/acc"):
        task_curves(rows, ["x/acc"])
    with pytest.raises(ValueError, match="it is unknown whether higher is better"):
        task_curves(curve(RISING, metric="x/likes"), ["x/likes"])
    with pytest.raises(ValueError, match="small, piqa/acc: two results at one token count: select"):
        task_curves(pd.concat([rows, rows], ignore_index=True))
    with pytest.raises(ValueError, match=r"level=95 must be at least 0\.5"):
        task_curves(rows, level=95)
    with pytest.raises(ValueError, match="gain must be above 0"):
        task_curves(rows, gain=0)
    with pytest.raises(ValueError, match="a level must lie between 0 and 1"):
        task_curves(rows, chance={"piqa": 50})


def test_chance_levels():
    assert chance_level("mmlu_anatomy/acc").level == chance_level("hendrycksTest-anatomy/acc_norm").level == 0.25
    assert chance_level("mmlu_pro_math/exact_match/custom-extract").level == 0.1
    assert chance_level("heldout/prose/last_word/acc").level == 0
    assert chance_level("heldout/prose/continuation/acc").level == 0.25
    assert chance_level("lambada_openai/perplexity") is None
    assert chance_level("unheard_of/acc") is None
    own = {"unheard*": 0.1, "unheard_of": 0.2, "unheard_of/f1": 0.3}
    assert chance_level("unheard_of/acc", own).level == 0.2
    assert chance_level("unheard_of/f1", own).level == 0.3
    assert chance_level("piqa/acc", own).source == "2 choices (Bisk et al. 2020)"
    assert all(0 <= chance.level < 1 for chance in CHANCE.values())


@pytest.mark.skipif(not (SHARED / "pythia-lm-eval").exists(), reason="Pythia's result files are not here")
def test_the_small_pythias_lose_lambada():
    """Both fell late in training, beyond any doubt; the three larger ones did not."""
    found = task_curves(load_pythia(SHARED / "pythia-lm-eval"), ["lambada_openai/acc", "winogrande/acc"])
    lambada = found[found["metric"] == "lambada_openai/acc"].set_index("model")
    marked = lambada["not_monotone"].to_dict()
    assert {model.split("-")[1] for model, mark in marked.items() if mark} == {"70m", "160m"}
    assert lambada["fall_z"]["pythia-70m-deduped"] == pytest.approx(12.6, abs=0.1)
    chance = found[found["metric"] == "winogrande/acc"].set_index("model")["at_chance"].to_dict()
    assert [size.split("-")[1] for size, mark in chance.items() if not mark] == ["1.4b"]
