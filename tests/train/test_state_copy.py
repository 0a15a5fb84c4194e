"""Copies of a training's state: what waits for what on a GPU, by stand-ins for its streams, and that a CPU has none."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import filesystem

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
from workbench.train import pinned_memory
from workbench.train.distributed import World
from workbench.train.optimizer import set_learning_rate
from workbench.train.shard_files import write_shards
from workbench.train.state import initial_state
from workbench.train.state_copy import HostCopies

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
STAGE = TrainingStage(
    parent=None,
    model=ModelConfig("test", 1, 16, 2, 2, 32, 61, 8),
    stream=StreamConfig("none", 8, 0, {"a": StreamSource()}, [MixtureSegment(0, {"a": 1.0})]),
    batch_sequences=2,
    schedule=Schedule(peak=1e-3, warmup_tokens=0),
    optimizer=OptimizerConfig(),
    precision="fp32",
    seed_init=0,
    numerics=NumericsConfig(),
)


class Stream:
    """Notes what it is told, in one list with all others."""

    def __init__(self, name, notes):
        self.name, self.notes = name, notes

    def wait_stream(self, other):
        self.notes.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event):
        self.notes.append(f"{self.name} waits until {event} are there")

    def record_event(self):
        self.notes.append(f"{self.name} notes that they are there")
        return self.name


@pytest.fixture
def notes(monkeypatch):
    """What happens on streams of a GPU that is none: its tensors are on the CPU, and its pinned memory is not."""
    notes = []
    current = [Stream("training", notes)]

    @contextmanager
    def entered(stream):
        current.append(stream)
        yield
        current.pop()

    def copy(self, name, tensor):
        notes.append(f"{current[-1].name} copies")
        return original(self, name, tensor)

    original = HostCopies._copy
    monkeypatch.setattr(HostCopies, "_copy", copy)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copies", notes))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(pinned_memory, "_pinned_block", lambda size: torch.empty(size, dtype=torch.uint8))
    return notes


def stepped(state):
    set_learning_rate(state.optimizer, 0.1)
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_copies_wait_for_the_step_before_them_and_the_next_update_for_the_copies(notes, kind):
    state = initial_state(replace(STAGE, optimizer=OptimizerConfig(kind=kind)), CPU)
    copies = HostCopies(CUDA)
    copies.hold_back(state.optimizer)
    stepped(state)
    assert notes == []
    expected = {name: tensor.clone() for name, tensor in state.snapshot().weights.items()}
    taken = copies.copy(state.snapshot(), is_main=True)
    first, copied, last = notes[0], notes[1:-1], notes[-1]
    assert first == "copies waits for training"
    assert last == "copies notes that they are there"
    assert set(copied) == {"copies copies", "copies waits for training"}
    assert copied.count("copies copies") == len(taken.weights) + len(taken.optimizer)
    notes.clear()
    stepped(state)
    assert notes[0] == "training waits until copies are there"
    assert all(torch.equal(tensor, expected[name]) for name, tensor in taken.weights.items())
    assert not torch.equal(state.model.embedding.weight, expected["embedding.weight"])


def test_memory_is_taken_once(notes, monkeypatch):
    asked = []
    monkeypatch.setattr(pinned_memory, "_pinned_block", lambda n: asked.append(n) or torch.empty(n, dtype=torch.uint8))
    state, copies = initial_state(STAGE, CPU), HostCopies(CUDA)
    copies.copy(state.snapshot(), is_main=True)  # before the first step there are no moments
    before = sum(asked)
    stepped(state)
    places = []
    for _ in range(2):
        taken = copies.copy(state.snapshot(), is_main=True)
        places.append({name: x.data_ptr() for name, x in {**taken.weights, **taken.optimizer}.items()})
    assert places[0] == places[1]
    weights = 4 * sum(x.numel() for x in state.model.parameters())
    assert before < 1.5 * weights
    assert sum(asked) < 1.5 * 3 * weights
    assert copies.copy(state.snapshot(), is_main=False).weights == {}


def test_a_training_on_the_cpu_asks_nothing_of_a_gpu(monkeypatch):
    """CUDA would start, and take memory of a GPU that others train on."""

    def started(*_, **__):
        raise AssertionError("CUDA has been started")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("get_rng_state", "stream", "current_stream", "current_device", "_lazy_init"):
        monkeypatch.setattr(torch.cuda, name, started)
    state = initial_state(STAGE, CPU)
    snapshot = state.snapshot()
    assert snapshot.rng.keys() == {"cpu"}
    taken = HostCopies(CPU).copy(snapshot, is_main=True)
    assert all(torch.equal(taken.weights[name], tensor) for name, tensor in snapshot.weights.items())


def test_a_share_without_numbers_has_a_place(notes):
    """Where a parameter has fewer rows than there are processes."""
    snapshot = replace(initial_state(STAGE, CPU).snapshot(), optimizer={"a": torch.zeros(0, 4), "b": torch.ones(3)})
    taken = HostCopies(CUDA).copy(snapshot, is_main=True)
    assert taken.optimizer["a"].shape == (0, 4)
    assert taken.optimizer["b"].tolist() == [1, 1, 1]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning")
def test_shares_that_were_copied_are_written_without_asking_the_gpu(monkeypatch, tmp_path):
    """PyTorch's writer waits for a GPU's current stream every 10 MB, wherever the tensors are: for the training's steps."""

    def waits(*_, **__):
        raise AssertionError("the writer waits for the GPU")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(filesystem, "_OverlappingCpuLoader", waits)
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(())}
    facts = write_shards(tmp_path, tensors, World())
    [name] = facts
    found = load_file(tmp_path / name)
    assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())
