import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.ablation import ablation_table, detectable_effect, holm
from analysis.ablation.equivalent import compute_equivalent, curve_of
from analysis.fitting import fit_law
from analysis.laws import Chinchilla
from analysis.overrides import override_of

LOSS = "heldout/prose/bits_per_byte"
ACC = "prose_cloze/acc"


def runs(effects, seeds=5, rates=(None,), noise=0.01, seed=0, metric=LOSS, rate_cost=None):
    """Made-up runs: baseline 2.0, a seed's own shift (shared by the variants), an effect a variant, noise a run."""
    rng = np.random.default_rng(seed)
    shifts = rng.normal(0, 0.1, seeds)
    rows = []
    for variant, effect in effects.items():
        for rate in rates:
            for s in range(seeds):
                cost = 0.0 if rate_cost is None else rate_cost(variant, rate)
                rows.append(
                    {
                        "study": "ablation",
                        "point": f"model=m1,variant={variant},optimizer.learning_rate={rate},seed_init={s}",
                        "variant": variant,
                        "learning_rate": rate,
                        "model": f"m1 variant={variant}",
                        "params": 1000,
                        "params_non_embedding": 1000,
                        "tokens": 1_000_000,
                        "flops": 6e9,
                        "seed_init": s,
                        "seed_data": s,
                        "annealed": True,
                        "metric": metric,
                        "value": 2.0 + shifts[s] + effect + cost + rng.normal(0, noise),
                        "checkpoint": f"{variant}-{rate}-{s}",
                    }
                )
    return pd.DataFrame(rows)


EFFECTS = {"base": 0.0, "worse": 0.05, "better": -0.04, "same": 0.0}


def test_table_is_the_two_way_analysis():
    frame = runs(EFFECTS)
    table = ablation_table(frame, LOSS, baseline="base", variant="variant")
    grid = frame.pivot(index="variant", columns="seed_init", values="value")
    rest = grid.sub(grid.mean(axis=1), axis=0).sub(grid.mean(axis=0), axis=1) + grid.to_numpy().mean()
    sigma = math.sqrt((rest.to_numpy() ** 2).sum() / 12)
    assert table["variant"].tolist() == ["better", "same", "worse"]
    assert table["difference"].tolist() == pytest.approx(
        [(grid.loc[v] - grid.loc["base"]).mean() for v in table["variant"]]
    )
    assert table["noise"].tolist() == pytest.approx([sigma] * 3)
    assert table["dof"].tolist() == [12, 12, 12]  # (4 - 1)(5 - 1)
    reach = stats.t.ppf(0.975, 12) * sigma * math.sqrt(2 / 5)
    assert (table["high"] - table["difference"]).tolist() == pytest.approx([reach] * 3)
    assert table["mark"].tolist() == ["beyond", "within", "beyond"]
    assert table["better"].fillna("").tolist() == ["variant", "", "baseline"]
    assert set(table["correction"]) == {"holm over 3 comparisons"}
    assert set(table["missing"]) == {""}
    assert set(table["note"]) == {""}


def test_own_pairs_have_their_own_interval():
    """A paired t of each variant's differences alone, beside the pooled noise."""
    frame = runs(EFFECTS)
    table = ablation_table(frame, LOSS, baseline="base", variant="variant").set_index("variant")
    grid = frame.pivot(index="variant", columns="seed_init", values="value")
    for name, row in table.iterrows():
        pairs = grid.loc[name] - grid.loc["base"]
        own = stats.ttest_1samp(pairs, 0.0).confidence_interval(0.95)
        assert row["pair_sd"] == pytest.approx(pairs.std())
        assert (row["pair_low"], row["pair_high"]) == pytest.approx((own.low, own.high))


def test_pairing_removes_what_the_seeds_share():
    """The seeds' own spread is 0.1 here: unpaired, a difference of 0.05 would be lost in it."""
    frame = runs(EFFECTS)
    table = ablation_table(frame, LOSS, baseline="base", variant="variant")
    assert table["noise"][0] < 0.02
    moved = frame.assign(value=frame["value"] + frame["seed_init"] * 7.0)
    again = ablation_table(moved, LOSS, baseline="base", variant="variant")
    assert again["difference"].tolist() == pytest.approx(table["difference"].tolist())
    assert again["p"].tolist() == pytest.approx(table["p"].tolist(), rel=1e-6)


def test_intervals_cover_and_marks_err_as_stated():
    """Of 60 tables without any effect, 95% of the intervals hold 0, and 5% of the tables mark a variant."""
    rng = np.random.default_rng(0)
    tasks = [f"task_{i:03}/bits_per_byte" for i in range(60)]
    frame = pd.concat([_cells(0.3 * rng.normal(size=(4, 5)) + np.arange(5)).assign(metric=task) for task in tasks])
    table = ablation_table(frame, tasks, baseline="v0", variant="variant", correction="none")
    assert ((table["low"] <= 0) & (table["high"] >= 0)).mean() == pytest.approx(0.95, abs=0.035)
    wrong = [min(holm(rows["p"].tolist())) < 0.05 for _, rows in table.groupby("metric")]
    assert 0.0 < np.mean(wrong) < 0.12


def _cells(values):
    columns = {"study": "s", "params": 10, "params_non_embedding": 10, "tokens": 100, "annealed": True, "metric": LOSS}
    return pd.DataFrame(
        [
            {**columns, "variant": f"v{v}", "seed_init": s, "seed_data": s, "value": x}
            for (v, s), x in np.ndenumerate(values)
        ]
    )


def test_detectable_effect_is_found_as_often_as_stated():
    effect = detectable_effect(0.01 * math.sqrt(2 / 5), 12, alpha=0.05, power=0.8)
    rng = np.random.default_rng(5)
    t = (effect + rng.normal(0, 0.01 * math.sqrt(2 / 5), 20_000)) / (
        np.sqrt(rng.chisquare(12, 20_000) / 12) * 0.01 * math.sqrt(2 / 5)
    )
    assert np.mean(np.abs(t) > stats.t.ppf(0.975, 12)) == pytest.approx(0.8, abs=0.01)
    assert detectable_effect(0.01, 12, alpha=0.01) > detectable_effect(0.01, 12, alpha=0.05)
    assert math.isnan(detectable_effect(math.nan, 0))


@pytest.mark.parametrize("power", [0.8, 0.99])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 4, 0.05 / 24])
@pytest.mark.parametrize("dof", [1, 2, 4, 32])
def test_detectable_effect_has_its_power_in_the_far_tail(dof, alpha, power):
    """P(|Z + effect| > t s) by hand, as the mean over 20,000 quantiles of s^2 = chi^2 / dof."""
    effect = detectable_effect(1.0, dof, alpha=alpha, power=power)
    bounds = stats.t.ppf(1 - alpha / 2, dof) * np.sqrt(stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, dof) / dof)
    achieved = (stats.norm.sf(bounds - effect) + stats.norm.cdf(-bounds - effect)).mean()
    assert achieved == pytest.approx(power, abs=1e-4)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.02, math.nan, 0.6])[::2] == pytest.approx([0.04, 0.6])
    assert math.isnan(holm([0.02, math.nan])[1])
    assert holm([]) == []


def test_several_tasks_share_one_correction():
    frame = pd.concat([runs(EFFECTS), runs(EFFECTS, metric=ACC, seed=1)])
    table = ablation_table(frame, [LOSS, ACC], baseline="base", variant="variant")
    assert set(table["correction"]) == {"holm over 6 comparisons"}
    both = table.set_index(["metric", "variant"])["better"]
    assert (both[LOSS, "worse"], both[ACC, "worse"]) == ("baseline", "variant")
    alone = ablation_table(frame, [LOSS, ACC], baseline="base", variant="variant", correction="none")
    assert alone["p_adjusted"].tolist() == alone["p"].tolist()
    assert (alone["detectable"] < table["detectable"]).all()


def test_missing_seed_is_named_and_its_pair_left_out():
    frame = runs(EFFECTS)
    gone = (frame["variant"] == "worse") & (frame["seed_init"] == 3)
    whole = ablation_table(frame, LOSS, baseline="base", variant="variant").set_index("variant")
    for cut in (frame.loc[~gone], frame.assign(value=frame["value"].mask(gone))):
        table = ablation_table(cut, LOSS, baseline="base", variant="variant").set_index("variant")
        assert table.loc["worse", "missing"] == "worse: init 3 data 3"
        assert "missing runs" in table.loc["worse", "note"]
        assert table["seeds"].tolist() == [5, 5, 4]
        assert table["dof"].tolist() == [11, 11, 11]
        pairs = frame.loc[frame["seed_init"] != 3].pivot(index="seed_init", columns="variant", values="value")
        assert table.loc["worse", "difference"] == pytest.approx((pairs["worse"] - pairs["base"]).mean())
        assert table.loc["same", "difference"] == pytest.approx(whole.loc["same", "difference"])
    assert table.loc["same", "missing"] == ""


def test_variant_without_a_value_stays_in_the_table():
    frame = runs(EFFECTS)
    frame.loc[frame["variant"] == "same", "value"] = math.nan
    table = ablation_table(frame, LOSS, baseline="base", variant="variant").set_index("variant")
    assert math.isnan(table.loc["same", "difference"])
    assert pd.isna(table.loc["same", "mark"])
    assert table.loc["same", "missing"].count("init") == 5
    assert table.attrs["excluded"] == ("5 rows not evaluated",)
    assert set(table["correction"]) == {"holm over 2 comparisons"}


def cost(variant, rate):
    return 0.1 * abs(math.log10(rate) + (2.0 if variant == "worse" else 3.0))


def test_each_variant_stands_at_its_best_rate():
    frame = runs(EFFECTS, rates=(1e-4, 1e-3, 1e-2), rate_cost=cost)
    table = ablation_table(frame, LOSS, baseline="base", variant="variant", rate="learning_rate").set_index("variant")
    assert table["rate"].tolist() == [1e-3, 1e-3, 1e-2]
    assert table["rate_at_edge"].tolist() == [False, False, True]
    assert "worse's best rate 0.01 is the smallest or largest tried" in table.loc["worse", "note"]
    assert table["dof"].tolist() == [12, 12, 12]
    assert table["cross_fitted"].tolist() == pytest.approx(table["difference"].tolist())


def test_choice_of_rate_favours_nobody():
    """Three rates that are alike, no effect: the difference is 0 on average, and the intervals still cover."""
    differences, held = [], []
    for draw in range(60):
        frame = runs({"base": 0.0, "same": 0.0, "other": 0.0}, rates=(1e-4, 1e-3, 1e-2), seed=draw)
        table = ablation_table(frame, LOSS, baseline="base", variant="variant", rate="learning_rate")
        differences += table["difference"].tolist()
        held += ((table["low"] <= 0) & (table["high"] >= 0)).tolist()
    assert abs(np.mean(differences)) < 0.002  # The best of three means is 0.004 too low.
    assert np.mean(held) > 0.93


def test_unequal_tuning_and_unstable_choice_are_named():
    frame = runs(EFFECTS, rates=(1e-4, 1e-3, 1e-2), rate_cost=cost)
    fewer = frame.loc[(frame["variant"] != "same") | (frame["learning_rate"] > 1e-4)]
    table = ablation_table(fewer, LOSS, baseline="base", variant="variant", rate="learning_rate").set_index("variant")
    assert "2 rates tried against 3" in table.loc["same", "note"]
    unscored = frame.assign(value=frame["value"].mask((frame["variant"] == "same") & (frame["learning_rate"] == 1e-4)))
    table = ablation_table(unscored, LOSS, baseline="base", variant="variant", rate="learning_rate").set_index(
        "variant"
    )
    assert "same has no value at rate 0.0001" in table.loc["same", "note"]
    one = (frame["variant"] == "same") & (frame["learning_rate"] == 1e-2) & (frame["seed_init"] == 0)
    lucky = frame.assign(value=frame["value"].where(~one, frame["value"] - 5.0))
    table = ablation_table(lucky, LOSS, baseline="base", variant="variant", rate="learning_rate").set_index("variant")
    assert "the choice of rate decides" in table.loc["same", "note"]


def test_a_rate_that_diverged_is_not_chosen_and_said():
    """At 0.016 all but seed 2 diverge, and seed 2 alone prefers 0.004: all five seeds choose, of the other rates."""
    rates = (0.004, 0.008, 0.016)
    frame = runs({"base": 0.0, "x": 0.0}, rates=rates, rate_cost=lambda _, rate: 0.05 * abs(math.log2(rate / 0.008)))
    own = frame["variant"] == "x"
    lost = own & (frame["learning_rate"] == 0.016) & (frame["seed_init"] != 2)
    lucky = own & (frame["learning_rate"] == 0.004) & (frame["seed_init"] == 2)
    diverged = frame.assign(value=frame["value"].mask(lost, math.inf) - 0.2 * lucky)
    table = ablation_table(diverged, LOSS, baseline="base", variant="variant", rate="learning_rate")
    row = table.set_index("variant").loc["x"]
    assert row["rate"] == 0.008
    assert not row["rate_at_edge"]
    assert row["seeds"] == 5
    note = "x diverged at rate 0.016 for init 0 data 0, init 1 data 1, init 3 data 3, init 4 data 4: it is not chosen"
    assert note in row["note"]
    absent = ablation_table(diverged.loc[~lost], LOSS, baseline="base", variant="variant", rate="learning_rate")
    assert "x's rates are compared over 1 of 5 seeds, those that all have" in absent["note"][0]
    everywhere = own & (frame["seed_init"] == 0)
    nowhere = frame.assign(value=frame["value"].mask(everywhere, math.inf))
    row = ablation_table(nowhere, LOSS, baseline="base", variant="variant", rate="learning_rate").iloc[0]
    assert (row["rate"], row["seeds"]) == (0.008, 4)
    assert (
        "x diverged at rate 0.004 for init 0 data 0: every rate diverged, and the remaining seeds choose" in row["note"]
    )
    gone = frame.assign(value=frame["value"].mask(own & (frame["learning_rate"] == 0.016), math.inf))
    row = ablation_table(gone, LOSS, baseline="base", variant="variant", rate="learning_rate").iloc[0]
    assert not row["rate_at_edge"]
    assert "has no value" not in row["note"]


def test_tokens_that_are_not_known_are_named():
    frame = runs(EFFECTS)
    table = ablation_table(
        frame.assign(tokens=frame["tokens"].mask(frame.index == 7)), LOSS, baseline="base", variant="variant"
    )
    assert table.attrs["excluded"] == ("1 row without tokens (NaN)",)
    assert table.set_index("variant").loc["worse", "missing"] == "worse: init 2 data 2"


def test_variant_that_scatters_otherwise_is_named():
    frame = runs(EFFECTS)
    jumps = np.where(frame["seed_init"] % 2, 0.3, -0.3)
    wild = frame.assign(value=frame["value"] + np.where(frame["variant"] == "worse", jumps, 0.0))
    table = ablation_table(wild, LOSS, baseline="base", variant="variant").set_index("variant")
    assert "scatters over seeds" in table.loc["worse", "note"]
    assert table.loc["same", "note"] == ""


def test_difference_in_tokens_of_training():
    """L = 1 + 20 D^-0.25: the tokens that bring the baseline to the variant's loss, by hand."""
    tokens, alpha = 1_000_000, 0.25
    change = 20 * (3 * tokens) ** -alpha - 20 * tokens**-alpha
    assert compute_equivalent(change, tokens, lambda d: 1 + 20 * d**-alpha) == pytest.approx(3.0)
    slope = -alpha * 20 * tokens**-alpha
    assert compute_equivalent(slope * 0.01, tokens, slope) == pytest.approx(math.exp(0.01))
    assert compute_equivalent(0.0, tokens, slope) == 1.0
    assert compute_equivalent(-1.0, tokens, lambda d: 1 + 20 * d**-alpha) == math.inf
    assert compute_equivalent(1e4, tokens, lambda d: 1 + 20 * d**-alpha) == 0.0
    assert math.isnan(compute_equivalent(math.nan, tokens, slope))
    with pytest.raises(ValueError, match="must be finite and not 0"):
        compute_equivalent(0.1, tokens, 0.0)
    with pytest.raises(ValueError, match="the curve is flat"):
        compute_equivalent(0.1, tokens, lambda d: 2.0)


def test_a_fit_is_a_curve():
    """A law fitted to exact points: twice the tokens are found as twice the tokens."""
    grid = [(n, d) for n in (1e5, 3e5, 1e6, 3e6) for d in (1e6, 3e6, 1e7, 3e7)]
    frame = pd.DataFrame(grid, columns=["params", "tokens"])
    frame["loss"] = 1.0 + 50 / frame["params"] ** 0.4 + 40 / frame["tokens"] ** 0.3
    curve = curve_of(fit_law(Chinchilla(), frame), params=1e6)
    assert curve(3e6) == pytest.approx(
        frame["loss"][(frame["params"] == 1e6) & (frame["tokens"] == 3e6)].item(), rel=1e-6
    )
    change = 40 / 6e6**0.3 - 40 / 3e6**0.3
    assert compute_equivalent(change, 3e6, curve) == pytest.approx(2.0, rel=1e-3)


def test_duplicate_and_infinite_rows_are_named():
    frame = runs(EFFECTS)
    whole = ablation_table(frame, LOSS, baseline="base", variant="variant")
    twice = ablation_table(pd.concat([frame, frame.iloc[:2]]), LOSS, baseline="base", variant="variant")
    assert twice.attrs["excluded"] == ("2 duplicate rows",)
    assert twice["difference"].tolist() == whole["difference"].tolist()
    diverged = frame.assign(value=frame["value"].where(frame.index != 7, math.inf))
    table = ablation_table(diverged, LOSS, baseline="base", variant="variant").set_index("variant")
    assert table.attrs["excluded"] == ("1 row with loss (infinite)",)
    assert table.loc["worse", "missing"] == "worse: init 2 data 2"


def test_table_in_tokens():
    table = ablation_table(runs(EFFECTS), LOSS, baseline="base", variant="variant", curves={LOSS: -0.1})
    table = table.set_index("variant")
    assert table["times"].tolist() == pytest.approx(np.exp(-table["difference"] / 0.1).tolist())
    assert table.loc["better", "times"] > 1 > table.loc["worse", "times"]
    assert (table["times_low"] < table["times"]).all()
    assert (table["times"] < table["times_high"]).all()
    assert table["detectable_times"].tolist() == pytest.approx(np.exp(table["detectable"] / 0.1).tolist())
    plain = ablation_table(runs(EFFECTS), LOSS, baseline="base", variant="variant")
    assert plain["times"].isna().all()


def test_unmatched_parameters_are_named():
    frame = runs(EFFECTS)
    frame["params_non_embedding"] = np.where(frame["variant"] == "better", 1030, 1000)
    table = ablation_table(frame, LOSS, baseline="base", variant="variant").set_index("variant")
    assert table.loc["better", "params_ratio"] == pytest.approx(1.03)
    assert table.loc["better", "note"] == "3.0% more parameters than the baseline"


def test_labels_from_the_points_names():
    frame = runs(EFFECTS).drop(columns=["variant", "learning_rate"])
    variant, rate = (partial(override_of, key=key) for key in ("variant", "optimizer.learning_rate"))
    table = ablation_table(frame, LOSS, baseline="base", variant=variant, rate=rate)
    assert table["variant"].tolist() == ["better", "same", "worse"]
    shared = pd.DataFrame({"point": ["a=1,b=2 | a=1,b=3"]})
    assert override_of(shared, "a").tolist() == ["1"]
    with pytest.raises(ValueError, match=r"has the values \['2', '3'\] for 'b'"):
        override_of(shared, "b")
    with pytest.raises(ValueError, match="has the values \\[''\\] for 'c'"):
        override_of(shared, "c")


def test_wrong_input_is_refused():
    frame = runs(EFFECTS)
    table = partial(ablation_table, metrics=LOSS, baseline="base", variant="variant")
    with pytest.raises(ValueError, match="baseline='none' is not a variant; the variants are: 'base'"):
        ablation_table(frame, LOSS, baseline="none", variant="variant")
    with pytest.raises(ValueError, match="correction='fdr'"):
        table(frame, correction="fdr")
    with pytest.raises(ValueError, match="token counts"):
        table(frame.assign(tokens=np.where(frame["seed_init"] == 0, 1, 2)))
    with pytest.raises(ValueError, match="share variant, rate and seed"):
        table(pd.concat([frame, frame.iloc[:1].assign(value=3.0, checkpoint="other")]))
    with pytest.raises(ValueError, match="lacks the column 'depth'"):
        ablation_table(frame, LOSS, baseline="base", variant="depth")
    with pytest.raises(ValueError, match="only the baseline"):
        table(frame.loc[frame["variant"] == "base"])
    with pytest.raises(ValueError, match="mixes the studies"):
        table(frame.assign(study=frame["variant"]))


def test_unknown_direction_is_refused_unless_said():
    """A made-up score: which variant is ahead, and which rate is best, hangs on what the caller says."""
    frame = runs(EFFECTS, rates=(1e-4, 1e-3, 1e-2), rate_cost=cost, metric="my/score")
    table = partial(ablation_table, frame, "my/score", baseline="base", variant="variant", rate="learning_rate")
    with pytest.raises(ValueError, match="metric 'my/score': it is unknown whether lower or higher is better"):
        table()
    less = table(lower={"my/score": True}).set_index("variant")
    assert less.loc["better", "better"] == "variant"
    assert less["rate"].tolist() == [1e-3, 1e-3, 1e-2]
    more = table(lower={"my/score": False}).set_index("variant")
    assert more["rate"].tolist() == [1e-2, 1e-2, 1e-4]
    assert more.loc["better", "better"] == "baseline"
    assert not more["lower_is_better"].any()


def test_runs_that_differ_by_the_same_for_every_seed_give_no_noise():
    """As where a seed was never used: a noise of 0 made every difference certain."""
    table = ablation_table(runs(EFFECTS, noise=0.0), LOSS, baseline="base", variant="variant")
    assert table[["stderr", "noise", "p", "low", "detectable"]].isna().all(axis=None)
    assert table["mark"].isna().all()
    assert table["note"][0] == "no noise estimate: the variants differ by exactly the same for every seed"


def test_one_seed_gives_no_noise():
    table = ablation_table(runs(EFFECTS, seeds=1), LOSS, baseline="base", variant="variant")
    assert table["stderr"].isna().all()
    assert table["mark"].isna().all()
    assert "no noise estimate" in table["note"][0]
