"""What a row says of the device: peak FLOP/s by its full name, and the stage's own peak of memory."""

import pytest
import torch

from workbench.tracking import spool
from workbench.train import peak, peak_memory
from workbench.train.peak import peak_flops, published_flops
from workbench.train.peak_memory import PeakMemory
from workbench.train.whole_stage import train_stage


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("A100-PCIE-40GB", 312),  # as older drivers name it
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
    ],
)
def test_published_peak_by_full_name(name, tflops):
    assert published_flops(name) == tflops * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",  # a seventh of one
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA L40",
        "NVIDIA H800",
        "Tesla V100-SXM2-32GB",  # has no bf16 units
        "AMD Instinct MI300X",
    ],
)
def test_a_name_that_only_resembles_a_known_one_has_no_peak(name):
    assert published_flops(name) is None


def test_an_unlisted_gpu_is_not_guessed_at(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 Ultra")
    assert peak_flops.__wrapped__("cuda", "bf16", 1) is None


def test_unknown_peaks_are_absent_from_rows(make_study, monkeypatch):
    monkeypatch.setattr("workbench.train.loop.peak_flops", lambda *_: None)
    monkeypatch.setattr(peak_memory, "_CLEAR_REFS", peak_memory.Path("/proc/self/no_such_file"))
    facts = make_study()
    trunk = next(iter(facts.plan.nodes))
    train_stage(facts.layout, trunk)
    for row in spool.read_rows(facts.layout.stage(trunk).path):
        assert spool.TRAIN_MODEL_FLOPS_UTILISATION not in row
        assert spool.TRAIN_MEMORY_BYTES not in row
        assert None not in row.values()


def test_memory_is_the_stages_peak_and_not_the_processs(make_study):
    """A worker that has held 400 MB before a small stage, and a stage after it, report the small stage's own."""
    before = PeakMemory(torch.device("cpu"))
    baseline = before.read()
    if baseline is None:
        pytest.skip("this system cannot set a process's peak back")
    torch.ones(100_000_000).sum()
    assert before.read() > baseline + 390e6  # a peak stays after the memory has gone
    facts = make_study()
    for identifier in facts.plan.nodes:
        train_stage(facts.layout, identifier)
        peaks = [row[spool.TRAIN_MEMORY_BYTES] for row in spool.read_rows(facts.layout.stage(identifier).path)]
        assert peaks == sorted(peaks)
        assert baseline / 2 < peaks[-1] < baseline + 200e6


def test_a_gpus_peak_is_set_back_when_a_stage_begins(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: calls.append(("reset", device)))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: calls.append(("read", device)) or 7)
    device = torch.device("cuda", 0)
    memory = PeakMemory(device)
    assert calls == [("reset", device)]
    assert memory.read() == 7


def test_the_cpu_is_measured(monkeypatch):
    monkeypatch.setattr(peak, "linear", lambda a, b: torch.ones(1))
    assert peak_flops.__wrapped__("cpu", "fp32", 1) > 0
