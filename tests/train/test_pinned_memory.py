"""Page-locked memory: every tensor has its own place, and blocks lose little of what they take."""

from itertools import pairwise

import pytest
import torch

from workbench.config.schema import ModelConfig, OptimizerConfig
from workbench.model.transformer import Transformer
from workbench.train.optimizer import build_optimizer, empty_optimizer_tensors
from workbench.train.pinned_memory import pinned_tensors, plan_blocks


def is_power_of_two(number):
    return number & (number - 1) == 0


def test_every_tensor_has_a_place_of_its_own():
    shapes = {
        "matrix": (torch.Size((5, 7)), torch.float32),
        "step": (torch.Size(()), torch.float32),
        "half": (torch.Size((3,)), torch.bfloat16),
        "nothing": (torch.Size((0, 7)), torch.float32),
        "state": (torch.Size((16,)), torch.uint8),
    }
    taken = []

    def take(size):
        taken.append(torch.full((size,), 255, dtype=torch.uint8))
        return taken[-1]

    tensors = pinned_tensors(shapes, take)
    assert {name: (x.shape, x.dtype) for name, x in tensors.items()} == shapes
    for number, tensor in enumerate(tensors.values()):
        tensor.fill_(number)
    for number, tensor in enumerate(tensors.values()):
        assert (tensor == number).all()
    used = [x for x in tensors.values() if x.numel()]
    assert all(any(x.data_ptr() in range(b.data_ptr(), b.data_ptr() + len(b)) for b in taken) for x in used)
    assert all(x.untyped_storage().nbytes() == x.numel() * x.element_size() for x in used)
    assert all(is_power_of_two(len(block)) for block in taken)


@pytest.mark.parametrize("sizes", [[1], [64], [65, 1, 1], [3 << 20] * 7 + [5], [1 << 20, (1 << 20) + 64, 4]])
def test_places_do_not_overlap(sizes):
    names = {str(number): size for number, size in enumerate(sizes)}
    found = []
    for size, places in plan_blocks(names):
        assert is_power_of_two(size)
        ends = sorted((begin, begin + names[name]) for name, begin in places.items())
        assert all(end <= begin for (_, end), (begin, _) in pairwise(ends))
        assert ends[-1][1] <= size
        assert all(begin % 64 == 0 for begin, _ in ends)
        found += places
    assert sorted(found) == sorted(names)


# Of layers, width, heads, those of keys and values, feed-forward width, vocabulary: m1, and conf/model/tinyllama_1b.yaml.
@pytest.mark.parametrize("shape", [(4, 160, 5, 5, 432, 4096), (22, 2048, 32, 4, 5632, 32000)])
def test_the_state_of_a_model_takes_little_more_than_its_bytes(shape):
    layers, width, heads, kv_heads, mlp_width, vocabulary = shape
    with torch.device("meta"):
        model = Transformer(ModelConfig("test", layers, width, heads, kv_heads, mlp_width, vocabulary, 256))
        optimizer = build_optimizer(model, OptimizerConfig())
        tensors = {**dict(model.named_parameters()), **empty_optimizer_tensors(model, optimizer)}
    sizes = {name: 4 * tensor.numel() for name, tensor in tensors.items()}
    taken, each_alone = (
        sum(size for size, _ in plan_blocks(sizes)),
        sum(1 << (n - 1).bit_length() for n in sizes.values()),
    )
    assert sum(sizes.values()) <= taken < 1.02 * sum(sizes.values())
    assert each_alone > 1.3 * sum(sizes.values())
