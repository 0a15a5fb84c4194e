"""What a stage asks of a cluster: the fewest GPUs that fit, what was asked for by hand, and refusals."""

from dataclasses import replace

import pytest

from workbench.config.compose import composer
from workbench.config.schema import CheckpointConfig, ClusterConfig, NumericsConfig, ResourcesConfig
from workbench.study.chain import build_chain
from workbench.study.flops import training_flops_per_token
from workbench.study.resources import USABLE_MEMORY, shared_within_nodes, stage_memory, stage_resources

GPUS = ClusterConfig(
    "gpus", gpus_per_node=4, gpu_memory_bytes=80_000_000_000, cpus_per_node=64, max_nodes=4, time_limit_minutes=600
)
CPUS = ClusterConfig("cpus", cpus_per_node=8, max_nodes=2, time_limit_minutes=60)
TOKENS = 10_000_000


@pytest.fixture(scope="module")
def stage():
    """The trunk of a 1.1 billion parameter model with a batch of 64 sequences."""
    overrides = [
        "model=tinyllama_1b",
        "tokenizer=llama2",
        "tokenizer.path=tokenizer.model",
        "precision=bf16",
        "recipe.batch_sequences=64",
        "recipe.warmup_tokens=0",
        f"tokens={TOKENS}",
        "numerics.parallel=shard",
    ]
    with composer() as hydra:
        [point] = hydra.points(overrides)
    return build_chain(point.config, "f" * 16)[0]


def with_resources(stage, **values):
    return replace(stage, resources=ResourcesConfig(**values))


def test_one_gpu_where_one_is_enough(stage):
    asked = stage_resources(stage, GPUS, TOKENS)
    assert (asked.nodes, asked.processes_per_node, asked.gpus_per_node, asked.cpus_per_process) == (1, 1, 1, 16)
    assert asked.peak_memory_bytes <= USABLE_MEMORY * 80e9


def test_the_micro_batch_is_the_largest_that_fits(stage):
    asked = stage_resources(stage, GPUS, TOKENS)
    twice = stage_memory(stage, 1, 2 * asked.micro_batch_sequences, "cuda")
    assert 64 % asked.micro_batch_sequences == 0
    assert twice.total > USABLE_MEMORY * 80e9
    assert stage_memory(stage, 1, asked.micro_batch_sequences, "cuda").total == asked.peak_memory_bytes


def test_smaller_gpus_share_the_model(stage):
    small = replace(GPUS, gpu_memory_bytes=16_000_000_000)
    asked = stage_resources(stage, small, TOKENS)
    assert asked.processes > 1
    fewer = stage_memory(stage, asked.processes // 2, 1, "cuda")
    assert fewer.total > USABLE_MEMORY * 16e9
    whole = replace(stage, numerics=replace(stage.numerics, parallel="replicate"))
    with pytest.raises(
        ValueError, match=r"tinyllama_1b.* needs at least .* GB per GPU.*16000000000: set numerics.parallel"
    ):
        stage_resources(whole, small, TOKENS)


def test_beyond_a_node_whole_nodes_are_asked_for(stage):
    tiny = replace(GPUS, gpu_memory_bytes=7_000_000_000)
    checkpointed = replace(stage, numerics=replace(stage.numerics, activation_checkpointing=True))
    asked = stage_resources(checkpointed, tiny, TOKENS)
    assert asked.nodes > 1
    assert asked.processes_per_node == asked.gpus_per_node == 4


def test_processes_divide_the_batch(stage):
    odd = replace(stage, batch_sequences=6)
    asked = stage_resources(odd, replace(GPUS, gpu_memory_bytes=17_000_000_000), TOKENS)
    assert 6 % asked.processes == 0
    assert asked.processes > 1
    with pytest.raises(ValueError, match=r"resources.processes=4 does not divide the batch of 6 sequences"):
        stage_resources(with_resources(odd, processes=4), GPUS, TOKENS)


def test_without_gpus_one_process_with_its_threads(stage):
    plain = replace(stage, numerics=NumericsConfig(threads=3))
    asked = stage_resources(plain, CPUS, TOKENS)
    assert (asked.nodes, asked.processes_per_node, asked.gpus_per_node, asked.cpus_per_process) == (1, 1, 0, 3)
    assert (asked.micro_batch_sequences, asked.memory_bytes_per_node) == (None, None)
    with pytest.raises(ValueError, match=r"1 processes of 9 cores a node exceed cluster.cpus_per_node=8"):
        stage_resources(replace(stage, numerics=NumericsConfig(threads=9)), CPUS, TOKENS)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"processes": 2}, (1, 2)),
        ({"processes": 2, "nodes": 2}, (2, 1)),
        ({"nodes": 2}, (2, 1)),
        ({"processes": 16}, (2, 8)),
    ],
)
def test_processes_asked_for_by_hand(stage, values, expected):
    asked = stage_resources(with_resources(stage, **values), CPUS, TOKENS)
    assert (asked.nodes, asked.processes_per_node) == expected


def test_everything_else_asked_for_by_hand(stage):
    mine = with_resources(stage, processes=2, nodes=1, cpus_per_process=3, memory_bytes=7, minutes=11)
    asked = stage_resources(mine, GPUS, TOKENS)
    assert (asked.processes, asked.nodes, asked.gpus_per_node, asked.cpus_per_process) == (2, 1, 2, 3)
    assert (asked.memory_bytes_per_node, asked.minutes) == (7, 11)
    kept = replace(mine, numerics=replace(stage.numerics, micro_batch_sequences=1))
    assert stage_resources(kept, GPUS, TOKENS).micro_batch_sequences is None


def test_a_nodes_memory_goes_with_its_share(stage):
    asked = stage_resources(stage, replace(GPUS, memory_bytes_per_node=400_000_000_000), TOKENS)
    assert asked.memory_bytes_per_node == 100_000_000_000
    plain = replace(stage, numerics=NumericsConfig(micro_batch_sequences=1))
    room = replace(CPUS, memory_bytes_per_node=8_000_000_000_000)
    assert stage_resources(plain, room, TOKENS).memory_bytes_per_node == 1_000_000_000_000
    with pytest.raises(ValueError, match=r"GB per node, more than cluster.memory_bytes_per_node=16000000000"):
        stage_resources(plain, replace(CPUS, memory_bytes_per_node=16_000_000_000), TOKENS)


def test_time_limit_has_a_margin_and_an_end(stage):
    fast = replace(GPUS, tokens_per_second={"tinyllama_1b": 10_000.0})
    asked = stage_resources(stage, fast, TOKENS)
    assert asked.seconds == 1000.0
    assert asked.minutes == 32  # 1000 s x 1.5, 300 s to start, 120 s of warning: 1920 s
    assert stage_resources(stage, fast, TOKENS, tokens_per_second=20_000.0).seconds == 500.0
    assert stage_resources(stage, fast, 1000 * TOKENS).minutes == 600
    unknown = stage_resources(stage, GPUS, TOKENS)
    assert (unknown.seconds, unknown.minutes) == (None, 600)
    two = stage_resources(with_resources(stage, processes=2), fast, TOKENS)
    assert two.seconds == 500.0


def test_flops_stand_in_for_speed(stage):
    asked = stage_resources(stage, replace(GPUS, flops_per_second=1e14), TOKENS)
    assert asked.seconds == pytest.approx(TOKENS * training_flops_per_token(stage.model) / 1e14)


def test_a_rule_may_ask_for_more_to_stay_in_one_job(stage):
    slow = replace(GPUS, tokens_per_second={"tinyllama_1b": 300.0}, rule="within_time_limit")
    assert stage_resources(stage, slow, TOKENS).processes == 2
    assert stage_resources(stage, replace(slow, rule="fewest_gpus"), TOKENS).processes == 1
    assert stage_resources(stage, slow, 1000 * TOKENS).processes == 16


@pytest.mark.parametrize(
    ("resources", "cluster", "message"),
    [
        ({}, replace(GPUS, rule="mine"), r"cluster.rule='mine' is not one of fewest_gpus, within_time_limit"),
        ({"minutes": 601}, GPUS, r"resources.minutes=601 is above cluster.time_limit_minutes=600"),
        ({"processes": 32}, GPUS, r"resources.processes=32 .* 4 processes on each of up to 4 nodes"),
        ({"nodes": 5}, GPUS, r"resources.nodes=5 does not suit stage 'trunk'"),
    ],
)
def test_what_no_cluster_grants_is_refused_in_one_line(stage, resources, cluster, message):
    with pytest.raises(ValueError, match=message) as error:
        stage_resources(with_resources(stage, **resources), cluster, TOKENS)
    assert "\n" not in str(error.value)


def test_a_gpu_on_a_cluster_without_any_is_refused(stage):
    with pytest.raises(ValueError, match="gpus_per_node=0"):
        stage_resources(replace(stage, numerics=NumericsConfig(device="cuda")), CPUS, TOKENS)


def test_a_copy_is_shared_out_within_a_node_unless_asked_otherwise(stage):
    """So that weights never cross between nodes, and a copy takes the memory of a node's GPUs and not of all."""
    numerics = replace(stage.numerics, parallel="hybrid")
    hybrid = replace(stage, numerics=numerics, resources=ResourcesConfig(processes=16))
    asked = stage_resources(hybrid, GPUS, TOKENS)
    assert (asked.nodes, asked.processes_per_node) == (4, 4)
    assert shared_within_nodes(hybrid, 4).numerics.shard_processes == 4
    shared = stage_memory(replace(stage, batch_sequences=16), 4, 4, "cuda")
    copied = stage_memory(shared_within_nodes(hybrid, 4), 16, 4, "cuda")
    assert copied.parameters == shared.parameters
    assert copied.total == shared.total == asked.peak_memory_bytes
    by_two = replace(hybrid, numerics=replace(numerics, shard_processes=2))
    assert shared_within_nodes(by_two, 4) == by_two
    assert stage_memory(by_two, 16, 4, "cuda").parameters == pytest.approx(2 * shared.parameters, rel=1e-6)
    assert shared_within_nodes(stage, 4) == stage


def test_only_numbers_of_gpus_that_make_whole_groups_are_asked_for(stage):
    small = replace(GPUS, gpu_memory_bytes=16_000_000_000)
    numerics = replace(stage.numerics, parallel="hybrid", shard_processes=4)
    assert stage_resources(replace(stage, numerics=numerics), small, TOKENS).processes == 4
    odd = replace(stage, numerics=replace(numerics, shard_processes=3), resources=ResourcesConfig(processes=4))
    with pytest.raises(ValueError, match=r"numerics\.shard_processes=3 does not divide the 4 processes"):
        stage_resources(odd, small, TOKENS)


def test_a_group_of_processes_is_for_hybrid_alone():
    with pytest.raises(ValueError, match=r"numerics\.shard_processes=2 is for numerics\.parallel=hybrid, not 'shard'"):
        NumericsConfig(parallel="shard", shard_processes=2)


def test_a_node_has_room_for_the_copies_of_checkpoints(stage):
    """Which lie in the host's memory: of all but weights a share a process, and the weights with one of them."""
    cluster = replace(GPUS, gpu_memory_bytes=16_000_000_000, memory_bytes_per_node=40_000_000_000)
    asked, inline = (
        stage_resources(replace(stage, checkpoint=CheckpointConfig(writes=writes)), cluster, TOKENS)
        for writes in ("auto", "inline")
    )
    assert asked.processes == inline.processes > 1
    assert inline.memory_bytes_per_node == 40_000_000_000 * asked.processes // 4
    assert asked.memory_bytes_per_node == inline.memory_bytes_per_node  # a share of the node suffices
    alone = replace(GPUS, memory_bytes_per_node=50_000_000_000)
    one = stage_resources(stage, alone, TOKENS)
    assert one.processes == 1
    assert one.memory_bytes_per_node == pytest.approx(12 * 1.1e9, rel=0.05)  # more than a quarter of the node
    with pytest.raises(ValueError, match=r"GB per node for copies of its checkpoints.*=13000000000: set checkpoint"):
        stage_resources(stage, replace(GPUS, memory_bytes_per_node=13_000_000_000), TOKENS)
