"""How long corpora take to make, in what a plan and a launch say and in the budget of hours."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace

import pytest

from workbench.cli.plan_verb import print_plan
from workbench.config.schema import BudgetConfig
from workbench.data.corpus.corpus_speeds import Speed
from workbench.forecast import corpus_estimate
from workbench.forecast.corpus_estimate import CorpusWork, estimate_corpora
from workbench.forecast.estimate import Estimate, check_budget, describe, estimate
from workbench.forecast.packing_estimate import estimate_packing
from workbench.forecast.study_facts import make_facts

WORK = CorpusWork(
    name="web",
    input_bytes=36_000_000_000,
    unknown_sources=(),
    stated_bytes=0,
    is_packed=False,
    shards=144,
    tasks=300,
    cores=2,
    bytes_per_second=5e6,
    measured="as n1 made such data last",
    cpu_seconds=7200.0,
    seconds=3600.0,
    disk_while_bytes=1,
    disk_after_bytes=1,
)


def test_making_data_is_part_of_the_time(compose, overrides, experiments):
    facts = make_facts(compose([*overrides, "data.corpus={}"], experiments))
    alone = estimate(facts, 1, measure=False)
    both = estimate(facts, 1, measure=False, corpora=[WORK, replace(WORK, seconds=600.0)])
    assert (alone.corpora_seconds, both.corpora_seconds) == (0.0, 4200.0)
    assert both.untimed_corpora == ()
    unknown = estimate(facts, 1, measure=False, corpora=[WORK, replace(WORK, name="code", seconds=None)])
    assert (unknown.corpora_seconds, unknown.untimed_corpora) == (3600.0, ("code",))


def test_packing_is_estimated_by_what_such_data_had(compose, overrides, experiments, monkeypatch):
    """Of the sources that are drawn from, by the documents and tokens a byte of data that was made before."""
    packed = [*overrides, "data.corpus={}", "data.packing=best_fit"]
    facts = make_facts(compose(packed, experiments))
    [unknown] = estimate_corpora(facts, None, measure=False)
    [context] = {node.stage.stream.context_tokens for node in facts.plan.nodes.values()}
    both = ("code", "prose")
    assert unknown.packing == (estimate_packing(context, both, None, None),)
    speed = Speed(bytes=1000, seconds=1.0, work_bytes=1000, store_bytes=500, documents=2, tokens=300)
    monkeypatch.setattr(corpus_estimate, "recall", lambda *_: (speed, "n1"))
    [known] = estimate_corpora(facts, None, measure=False)
    expected = estimate_packing(context, both, known.input_bytes * 2 / 1000, known.input_bytes * 300 / 1000)
    assert (known.packing[0].pieces, known.packing[0].disk_bytes) == (expected.pieces, expected.disk_bytes)
    assert known.packing[0].seconds == pytest.approx(expected.seconds)
    [alone] = estimate_corpora(
        make_facts(compose([*packed, "data.sources.code.weight=0"], experiments)), None, measure=False
    )
    assert alone.packing[0].sources == ("prose",)
    assert 0 < alone.packing[0].pieces < known.packing[0].pieces


def test_the_time_says_what_it_is_made_of():
    work = Estimate(0.0, 0, 2, {"a": 1200.0}, 0, chain_seconds=1200.0, corpora_seconds=3600.0)
    assert work.seconds == 4800.0
    assert work.hours == pytest.approx(4 / 3)
    assert describe(work) == "about 80.0 min with 2 at a time: making data 60.0 min, training 20.0 min"
    unknown = replace(work, untimed_corpora=("code",))
    assert describe(unknown).endswith("; making data code not counted, since its time is not known")


def test_a_budget_of_hours_is_held_against_making_data():
    work = Estimate(0.0, 0, 2, {"a": 1200.0}, 0, chain_seconds=1200.0, corpora_seconds=3600.0)
    check_budget(BudgetConfig(max_hours=1.5), work)
    with pytest.raises(ValueError, match=r"takes about 1\.33 hours, more than budget\.max_hours=1:"):
        check_budget(BudgetConfig(max_hours=1.0), work)
    unknown = replace(work, untimed_corpora=("code", "web"))
    with pytest.raises(ValueError, match="max_hours is set, but how long data code, web takes to make is not known"):
        check_budget(BudgetConfig(max_hours=1000.0), unknown)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ([], "; making data corpus not counted, since its time is not known"),
        (
            ["hydra/launcher=slurm", "+cluster.tokens_per_second.m0_03=10"],
            "(evaluations and the making of data not counted)",
        ),
    ],
)
def test_a_plan_says_what_it_leaves_out(overrides, experiments, capsys, where, said):
    every = [*overrides, "data.corpus={}", *where]
    assert print_plan(Namespace(experiments=experiments, overrides=every, json=False, no_measure=True)) == 0
    assert said in capsys.readouterr().out
