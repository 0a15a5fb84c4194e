"""Gradients set out for the other processes as they come, in one order, and arrive before the step goes on."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from workbench.train import gradient_sums
from workbench.train.distributed import World
from workbench.train.gradient_sums import GradientSums

TWO = World(0, 2, torch.device("cpu"))


class Doubled:
    """What a sum over two processes with the same gradients comes to, once it is waited for."""

    def __init__(self, flat, events):
        self.flat, self.events = flat, events

    def wait(self):
        self.events.append(f"waits for {len(self.flat)}")
        self.flat.mul_(2)


@pytest.fixture
def events(monkeypatch):
    seen = []

    def all_reduce(flat, async_op):
        assert async_op
        seen.append(f"sends {len(flat)}")
        return Doubled(flat, seen)

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    return seen


def layers(events):
    model = nn.Sequential(*(nn.Linear(width, width, bias=False) for width in (2, 2, 2)))
    for number, layer in enumerate(model):
        layer.register_full_backward_hook(lambda *_, number=number: events.append(f"layer {number}"))
    return model


def backward(model):
    model(torch.ones(1, 2, requires_grad=True)).sum().backward()
    return [p.grad.clone() for p in model.parameters()]


def test_a_bucket_sets_out_while_earlier_layers_are_still_at_work(events, monkeypatch):
    monkeypatch.setattr(gradient_sums, "BUCKET_ELEMENTS", 4)
    model = layers(events)
    alone = backward(model)
    model.zero_grad()
    events.clear()
    with GradientSums(model, TWO):
        backward(model)
        sent = list(events)
    assert sent.index("sends 4") < sent.index("layer 0")
    assert sent.count("sends 4") == 3
    assert events[len(sent) :] == ["waits for 4"] * 3
    assert all(torch.equal(p.grad, 2 * g) for p, g in zip(model.parameters(), alone, strict=True))
    model.zero_grad()
    events.clear()
    backward(model)
    assert "sends 4" not in events  # its hooks are gone


def test_what_earlier_micro_batches_gave_is_summed_with_the_last(events):
    model = layers(events)
    alone = backward(model)
    with GradientSums(model, TWO):
        backward(model)
    assert all(torch.equal(p.grad, 4 * g) for p, g in zip(model.parameters(), alone, strict=True))
    assert events.count("sends 12") == 1


def test_a_parameter_without_a_part_in_the_last_micro_batch_is_summed_too(events, monkeypatch):
    monkeypatch.setattr(gradient_sums, "BUCKET_ELEMENTS", 4)
    model = layers(events)
    alone = backward(model)
    with GradientSums(model, TWO):
        model[2](torch.ones(1, 2, requires_grad=True)).sum().backward()
    assert torch.equal(model[0].weight.grad, 2 * alone[0])
    frozen = layers(events)
    frozen[0].requires_grad_(False)
    events.clear()
    with GradientSums(frozen, TWO):
        frozen(torch.ones(1, 2, requires_grad=True)).sum().backward()
    assert sum(event.startswith("sends") for event in events) == 2
    assert frozen[0].weight.grad is None


def test_a_second_backward_pass_is_refused_and_an_error_sends_nothing_more(events):
    model = layers(events)
    with pytest.raises(AssertionError, match="added to after it was summed"), GradientSums(model, TWO):
        [backward(model) for _ in range(2)]
    events.clear()
    with pytest.raises(KeyError), GradientSums(model, TWO):
        raise KeyError
    assert events == []


def test_one_process_alone_sums_nothing(events):
    model = layers(events)
    with GradientSums(model, World()):
        backward(model)
    assert not [event for event in events if event.startswith("sends")]
