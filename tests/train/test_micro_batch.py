"""The micro-batch that is taken where the numerics leave it open."""

from dataclasses import replace

import pytest
import torch

from workbench.config.schema import (
    MixtureSegment,
    ModelConfig,
    NumericsConfig,
    OptimizerConfig,
    Schedule,
    StreamConfig,
    StreamSource,
    TrainingStage,
)
from workbench.study.resources import USABLE_MEMORY, stage_memory
from workbench.train.micro_batch import choose_micro_batch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TINYLLAMA = ModelConfig(
    name="tinyllama",
    num_layers=22,
    width=2048,
    num_heads=32,
    num_kv_heads=4,
    mlp_width=5632,
    vocab_size=32000,
    context_tokens=2048,
)
STAGE = TrainingStage(
    parent=None,
    model=TINYLLAMA,
    stream=StreamConfig("none", 2048, 0, {"a": StreamSource()}, [MixtureSegment(0, {"a": 1.0})]),
    batch_sequences=880,
    schedule=Schedule(peak=4e-4, warmup_tokens=0),
    optimizer=OptimizerConfig(),
    precision="bf16",
    seed_init=0,
)
GPU_BYTES = 80_000_000_000


@pytest.mark.parametrize("processes", [1, 8])
@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_a_gpu_takes_the_most_that_fits(processes, parallel):
    """TinyLlama's 880 sequences do not go through at once."""
    stage = replace(STAGE, numerics=NumericsConfig(parallel=parallel))
    share = 880 // processes
    chosen = choose_micro_batch(stage, processes, CUDA, GPU_BYTES)
    assert 1 < chosen < share
    assert share % chosen == 0
    larger = min(size for size in range(chosen + 1, share + 1) if share % size == 0)
    room = USABLE_MEMORY * GPU_BYTES
    assert stage_memory(stage, processes, chosen, "cuda").total <= room
    assert stage_memory(stage, processes, larger, "cuda").total > room


def test_the_whole_share_where_it_fits_and_one_sequence_where_nothing_does():
    assert choose_micro_batch(replace(STAGE, batch_sequences=4), 2, CUDA, GPU_BYTES) == 2
    assert choose_micro_batch(STAGE, 1, CUDA, 1_000_000) == 1


def test_what_the_numerics_say_is_taken():
    stage = replace(STAGE, numerics=NumericsConfig(micro_batch_sequences=300))
    assert choose_micro_batch(stage, 1, CUDA, 1_000_000) == 300
    assert choose_micro_batch(stage, 4, CUDA, 1_000_000) == 220  # no more than a process has


def test_the_cpu_takes_the_whole_batch_while_it_has_the_memory():
    small = replace(TINYLLAMA, num_layers=2, width=64, num_heads=2, num_kv_heads=2, mlp_width=128)
    stage = replace(STAGE, model=small, batch_sequences=48)
    assert choose_micro_batch(stage, 1, CPU) == 48
    needed = stage_memory(stage, 1, 12, "cpu").total
    assert choose_micro_batch(stage, 1, CPU, int(needed / USABLE_MEMORY) + 1) == 12


def test_what_a_stage_began_with_is_taken_again_while_it_fits():
    """A machine with more memory continues with the same sums; one with too little for them chooses anew."""
    stage = replace(STAGE, batch_sequences=4)
    assert choose_micro_batch(stage, 1, CUDA, GPU_BYTES) == 4
    assert choose_micro_batch(stage, 1, CUDA, GPU_BYTES, begun_with=2) == 2
    assert choose_micro_batch(stage, 1, CUDA, 1_000_000, begun_with=2) == 1
    assert choose_micro_batch(stage, 1, CUDA, GPU_BYTES, begun_with=3) == 4  # does not divide the share
    fixed = replace(stage, numerics=NumericsConfig(micro_batch_sequences=1))
    assert choose_micro_batch(fixed, 1, CUDA, GPU_BYTES, begun_with=2) == 1


def test_whole_gradients_of_a_shared_out_model_are_counted():
    """They are summed after the last micro-batch alone."""
    stage = replace(STAGE, numerics=NumericsConfig(parallel="shard"))
    once, often = (stage_memory(stage, 8, size, "cuda") for size in (110, 10))
    assert often.gradients == pytest.approx(8 * once.gradients, rel=1e-6)
