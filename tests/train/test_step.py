"""One optimizer step: what it measures, and that a step without finite numbers changes no bit."""

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from workbench.config.schema import ModelConfig, OptimizerConfig
from workbench.model.batch import Batch
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer, loss_per_token, summed_loss
from workbench.train.optimizer import build_optimizer, optimizer_tensors
from workbench.train.step import NonFiniteLossError, train_step

MODEL = ModelConfig(
    name="test", num_layers=1, width=32, num_heads=4, num_kv_heads=4, mlp_width=48, vocab_size=61, context_tokens=16
)
TOKENS = torch.randint(0, 61, (4, 17), generator=torch.Generator().manual_seed(0))
SOURCES = torch.tensor([0, 2, 2, 0])


class Trained:
    """A small model between two steps."""

    def __init__(self, precision="fp32"):
        self.model = Transformer(MODEL)
        init_weights(self.model, 0)
        self.optimizer = build_optimizer(self.model, OptimizerConfig())
        self.precision = precision

    def step(self, loss=None, **settings):
        return train_step(
            self.model,
            loss or partial(summed_loss, self.model),
            self.optimizer,
            Batch(TOKENS),
            SOURCES,
            num_sources=3,
            learning_rate=1e-2,
            precision=self.precision,
            **{"clip_norm": 1.0, "micro_batch_sequences": 2, **settings},
        )

    def poisoned(self, factor, micro_batch=1):
        """The loss times a factor in one micro-batch."""
        passes = []

        def loss(tokens):
            passes.append(1)
            total, losses = summed_loss(self.model, tokens)
            now = factor if len(passes) == micro_batch else 1.0
            return total * now, losses * now

        return loss

    def state(self):
        """Copies of everything that an update may change."""
        parameters = dict(self.model.named_parameters())
        return copy.deepcopy({**parameters, **optimizer_tensors(self.model, self.optimizer)})


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


def test_losses_by_source_and_gradient_norm():
    trained = Trained()
    losses = loss_per_token(trained.model, TOKENS)
    gradients = torch.autograd.grad(losses.mean(), list(trained.model.parameters()))
    result = trained.step()
    assert result.loss == pytest.approx(losses.mean().item(), rel=1e-6)
    assert result.source_losses == [
        pytest.approx(losses[[0, 3]].mean().item(), rel=1e-6),
        None,
        pytest.approx(losses[[1, 2]].mean().item(), rel=1e-6),
    ]
    assert result.gradient_norm == pytest.approx(math.sqrt(sum(float(g.norm()) ** 2 for g in gradients)), rel=1e-5)
    assert not result.skipped


@pytest.mark.parametrize("factor", [math.nan, math.inf, 1e35])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_skipped_update_changes_no_bit(precision, factor, steps_before):
    """A loss that is not finite, or (1e35) whose gradient alone is not; at the first step, and between others."""
    skipping, untouched = Trained(precision), Trained(precision)
    for trained in (skipping, untouched):
        for _ in range(steps_before):
            trained.step()
    before = skipping.state()
    result = skipping.step(skipping.poisoned(factor, micro_batch=2), skip_non_finite=True)
    assert result.skipped
    assert math.isfinite(result.loss) == (factor == 1e35)
    assert not math.isfinite(result.gradient_norm)
    after = skipping.state()
    assert_equal({name: after[name] for name in before}, before)
    assert all(not after[name].any() for name in after.keys() - before.keys())  # moments that the first step made
    assert [skipping.step(), skipping.step()] == [untouched.step(), untouched.step()]
    assert_equal(skipping.state(), untouched.state())


def test_stopping_touches_no_weight():
    trained = Trained()
    trained.step()
    before = trained.state()
    with pytest.raises(NonFiniteLossError, match=r"step 7: loss nan, gradient norm nan, on sequences \[24, 28\)"):
        trained.step(trained.poisoned(math.nan), step=7, sequences=range(24, 28))
    assert_equal(trained.state(), before)
    assert all(parameter.grad is None for parameter in trained.model.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_skipping_changes_nothing_where_all_is_finite(precision):
    skipping, stopping = Trained(precision), Trained(precision)
    assert [skipping.step(skip_non_finite=True) for _ in range(3)] == [stopping.step() for _ in range(3)]
    assert_equal(skipping.state(), stopping.state())


def test_what_a_config_may_say_about_it():
    assert replace(OptimizerConfig(), non_finite="skip").max_skips_in_a_row == 5
    with pytest.raises(ValueError, match=r"optimizer\.non_finite='ignore' is not one of stop, skip"):
        OptimizerConfig(non_finite="ignore")
    with pytest.raises(ValueError, match=r"optimizer\.max_skips_in_a_row=0"):
        OptimizerConfig(max_skips_in_a_row=0)
