"""What a plan asks of a cluster, what it costs, and the budgets that refuse it."""

import json
from argparse import Namespace
from dataclasses import replace

import pytest

from workbench.cli.plan_verb import print_plan
from workbench.config.schema import BudgetConfig
from workbench.data.data_record import make_record
from workbench.forecast.cluster_cost import check_cluster_budget, cluster_work
from workbench.forecast.estimate import longest_chain
from workbench.forecast.plan_notes import leaving_points_note
from workbench.forecast.study_facts import make_facts, packed_contexts, prepare_data
from workbench.launch.before_start import check_before_start

# Ten tokens a second: a stage of 8,192 tokens takes 819.2 s, and one of 2,048 a quarter of that.
SPEED = ["+cluster.tokens_per_second.m0_03=10"]
CLUSTER = ["hydra/launcher=slurm", "cluster.price_per_gpu_hour=3", "cluster.time_limit_minutes=600"]


@pytest.fixture
def facts_of(overrides, experiments, compose):
    """Plan the small study on a cluster with further overrides."""
    return lambda *more: make_facts(compose([*overrides, *CLUSTER, *more], experiments))


@pytest.fixture
def plan(overrides, experiments, capsys):
    """Run `workbench plan` and get what it printed."""

    def run(*more, json=False):
        every = [*overrides, *more]
        assert print_plan(Namespace(experiments=experiments, overrides=every, json=json, no_measure=True)) == 0
        return capsys.readouterr().out

    return run


def test_hours_and_cost_of_a_sweep(facts_of):
    work = cluster_work(facts_of(*SPEED, "tokens=10240,20480"))
    # The trunk goes to 16,384 tokens, with a branch point at 8,192; the cooldowns have 2,048 and 4,096.
    seconds = (16384 + 2048 + 4096) / 10
    assert sorted(stage.jobs for stage in work.stages.values()) == [1, 1, 2]
    assert work.gpu_hours == pytest.approx(seconds / 3600 / 2)  # one of two cores a node
    assert work.cost == pytest.approx(3 * seconds / 3600 / 2)
    assert work.hours == pytest.approx((16384 + 4096) / 10 / 3600)
    assert work.peak_memory_bytes == max(stage.resources.peak_memory_bytes for stage in work.stages.values()) > 0


def test_a_job_asks_for_the_time_of_its_piece(facts_of):
    work = cluster_work(facts_of(*SPEED, "tokens=10240,20480"))
    trunk = max(work.stages.values(), key=lambda stage: stage.jobs)
    assert trunk.resources.seconds == pytest.approx(1638.4)
    assert trunk.resources.minutes == 28  # 819.2 s x 1.5, 300 s to start, 120 s of warning: 1649 s


def test_what_exists_is_not_counted(facts_of):
    facts = facts_of(*SPEED)
    trunk, cooldown = facts.plan.nodes
    facts.existing[trunk] = set(facts.plan.nodes[trunk].targets)
    work = cluster_work(facts)
    assert set(work.stages) == {cooldown}
    assert work.stages[cooldown].resources.seconds == pytest.approx(204.8)


def test_an_unknown_speed_is_no_estimate(facts_of):
    work = cluster_work(facts_of())
    assert (work.gpu_hours, work.cost, work.hours) == (None, None, None)
    assert work.unknown == ["m0_03"]
    with pytest.raises(ValueError, match=r"budget.max_gpu_hours is set, but the speed of m0_03 .* is not known"):
        check_cluster_budget(BudgetConfig(max_gpu_hours=1), work)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (BudgetConfig(max_gpu_hours=0.1), r"about 0.142 GPU hours, more than budget.max_gpu_hours=0.1"),
        (BudgetConfig(max_cost=0.4), r"about 0.427 USD, more than budget.max_cost=0.4"),
    ],
)
def test_a_plan_above_its_budget_is_refused_with_both_numbers(facts_of, budget, message):
    work = cluster_work(facts_of(*SPEED))
    with pytest.raises(ValueError, match=message):
        check_cluster_budget(budget, work)
    check_cluster_budget(BudgetConfig(max_gpu_hours=0.15, max_cost=0.43), work)


def test_a_budget_of_money_needs_a_price(facts_of):
    work = cluster_work(facts_of(*SPEED))
    with pytest.raises(ValueError, match=r"cluster.price_per_gpu_hour is not"):
        check_cluster_budget(
            BudgetConfig(max_cost=1), replace(work, cluster=replace(work.cluster, price_per_gpu_hour=None))
        )


def test_a_launch_holds_the_clusters_budget_where_it_submits(facts_of):
    facts = facts_of(*SPEED, "budget.max_gpu_hours=0.1", "budget.max_hours=0")
    with pytest.raises(ValueError, match=r"budget.max_gpu_hours=0.1"):
        check_before_start(facts, here=False)
    # The hours of this machine are no concern of a cluster's.
    check_before_start(facts_of(*SPEED, "budget.max_hours=0"), here=False)


def test_a_cluster_without_room_is_refused_before_anything_is_submitted(facts_of):
    with pytest.raises(ValueError, match=r"exceed cluster.cpus_per_node=2"):
        check_before_start(facts_of("numerics.threads=3"), here=False)


def test_plan_prints_what_jobs_ask_for(plan):
    text = plan(*CLUSTER, *SPEED)
    assert "1 node x 1 x 1 CPU" in text
    assert "about 0.142 node hours, 0.43 USD, 0.284 hours if no job waits (evaluations not counted)" in text
    assert "not estimated, since the speed of m0_03 on cluster 'cpu' is not known" in plan(*CLUSTER)
    assert "CPU" not in plan()


def test_plan_for_scripts(plan):
    values = json.loads(plan(*CLUSTER, *SPEED, json=True))
    assert values["cluster"]["gpu_hours"] == pytest.approx(1024 / 3600 / 2)
    assert values["cluster"]["cost"] == pytest.approx(3 * 1024 / 3600 / 2)
    assert set(values["cluster"]["stages"]) == {stage["id"] for stage in values["stages"]}
    assert all(stage["minutes"] > 0 and stage["nodes"] == 1 for stage in values["cluster"]["stages"].values())
    assert json.loads(plan(json=True))["cluster"] is None


def test_distinct_tokens_beyond_the_store_are_refused_before_training(facts_of, plan):
    beyond = ["data.unique_tokens=100000000"]
    with pytest.raises(ValueError, match=r"unique_tokens=100000000 gives source 'code' 30000000 .* the store has \d+:"):
        prepare_data(facts_of(*beyond), print)
    assert "the store has" in plan(*beyond)
    code, prose, refusal = json.loads(plan(*beyond, json=True))["notes"]
    assert refusal.startswith("`workbench run` will refuse this: data.unique_tokens=100000000 gives source 'code'")
    assert prose.startswith("source 'prose'")
    assert code.startswith("source 'code'")


def test_a_sources_own_distinct_tokens_are_the_most_and_plan_says_so(facts_of, plan):
    most = "data.sources.prose.unique_tokens=100000000"
    prepare_data(facts_of(most), print)
    [note] = json.loads(plan(most, json=True))["notes"]
    assert note.startswith("source 'prose'")
    assert json.loads(plan("data.sources.prose.unique_tokens=3200", json=True))["notes"] == []


def test_a_plan_of_packed_documents_says_the_padding_once_they_are_packed(plan, facts_of):
    packed = ("model.context_tokens=48", "data.packing=best_fit")
    values = json.loads(plan(*packed, json=True))
    assert values["notes"] == ["packing into 48 tokens: padding is known once `workbench prepare` has packed the data"]
    assert values["points"][0]["padded_share"] is values["points"][0]["unique_tokens"] is None
    said = []
    prepare_data(facts_of(*packed), said.append)
    values = json.loads(plan(*packed, json=True))
    assert values["notes"] == [f"packing into 48 tokens: {line}" for line in said if line.startswith("source ")]
    assert len(values["notes"]) == 2
    assert "documents cut" in plan(*packed)
    assert 0 < values["points"][0]["padded_share"] < 0.05
    assert values["points"][0]["unique_tokens"] == values["points"][0]["tokens"]
    assert json.loads(plan(json=True))["points"][0]["padded_share"] == 0


def test_a_longer_context_has_packed_sequences_of_its_own(make_study, experiments):
    longer = ["recipe=cosine", "tokens=2048", "then=extend", "then.extend.context_tokens=128"]
    longer += ["then.extend.tokens=2048", "then.extend.learning_rate=0.01", "data.packing=best_fit"]
    facts, said = make_study(*longer), []
    assert [context for _, context in packed_contexts(facts.plan)] == [32, 128]
    prepare_data(facts, said.append)
    [store] = {fingerprint for fingerprint, _ in packed_contexts(facts.plan)}
    record = make_record(facts.layout.data(store))
    assert [one["context_tokens"] for one in record["packing"] if one["context_tokens"] != 48] == [32, 128]
    short, long = (one["sources"]["prose"] for one in record["packing"] if one["context_tokens"] != 48)
    assert short["documents"] == long["documents"]
    assert short["cut"] > long["cut"]
    assert long["cut"] < long["cut_in_windows"]


def test_a_plan_says_what_a_run_will_refuse_for_want_of_data(plan, facts_of):
    once = ("tokens=100M", "data.sources.prose.max_epochs=1")
    prepare_data(facts_of(), lambda line: None)
    assert "`workbench run` will refuse this: source 'prose' would give 56000000 tokens, but has " in plan(*once)
    assert "will refuse" not in plan()


def test_points_that_a_launch_no_longer_names_are_said(make_study, facts_of, plan):
    """They leave the table and the figures of the study's name."""
    first = make_study("tokens=10240,20480")
    assert leaving_points_note(first) == []
    assert leaving_points_note(facts_of("tokens=10240,20480,40960")) == []
    [note] = leaving_points_note(facts_of("tokens=10240,40960"))
    assert "1 of the 2 points of its last launch are not in this one, and leave its table" in note
    assert "(tokens=20480)" in note
    assert note in plan("tokens=10240,40960")
    [note] = leaving_points_note(facts_of("tokens=40960"))
    assert "other points than its last one, which leave its table and figures (tokens=10240, tokens=20480)" in note


def test_a_chain_ends_with_the_scores_of_its_last_checkpoint(facts_of):
    plan = facts_of("tokens=10240,20480").plan
    [trunk] = [i for i, node in plan.nodes.items() if node.stage.parent is None]
    short, long = sorted(plan.nodes.keys() - {trunk}, key=lambda i: plan.nodes[i].stage.end_tokens)
    seconds = {trunk: 100.0, short: 20.0, long: 30.0}
    assert longest_chain(plan, seconds) == 130.0
    assert longest_chain(plan, seconds, {trunk: 5.0}) == 130.0
    assert longest_chain(plan, seconds, {short: 15.0, long: 1.0}) == 135.0
