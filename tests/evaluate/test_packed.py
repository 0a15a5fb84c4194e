"""Repacked matrices multiply as the plain ones do."""

import pytest
import torch

from tests.evaluate.conftest import tiny_model
from workbench.evaluate.packed import PackedLinear, can_pack, pack_model
from workbench.evaluate.scoring import Row, Scorer
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer

CPU = torch.device("cpu")
on_onednn = pytest.mark.skipif(not can_pack(CPU, "fp32"), reason="this processor has no packed kernels")


def test_only_fp32_on_the_cpu_is_packed() -> None:
    assert not can_pack(CPU, "bf16")
    assert not can_pack(torch.device("cuda"), "fp32")


@on_onednn
@pytest.mark.parametrize("shape", [(1, 32), (7, 32), (300, 32), (2, 5, 32)])
def test_products_are_equal(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(96, 32, generator=generator), torch.randn(*shape, generator=generator)
    torch.testing.assert_close(PackedLinear(weight)(x), torch.nn.functional.linear(x, weight), rtol=1e-6, atol=1e-5)


@on_onednn
@pytest.mark.parametrize("tied", [False, True])
def test_a_packed_model_gives_the_same_logits(tied: bool) -> None:
    plain = Transformer(tiny_model(tie_embeddings=tied))
    init_weights(plain, seed=3)
    packed = Transformer(plain.config)
    packed.load_state_dict(plain.state_dict())
    head = pack_model(packed)
    tokens = torch.arange(60).reshape(2, 30)
    with torch.inference_mode():
        torch.testing.assert_close(head(packed.hidden(tokens)), plain(tokens), rtol=1e-5, atol=1e-5)


def test_scores_are_the_models_log_softmax() -> None:
    model = Transformer(tiny_model())
    init_weights(model, seed=4)
    rows = [Row(list(range(5, 5 + n)), scored) for n, scored in ((9, 3), (30, 29), (2, 1), (30, 1))]
    expected = []
    with torch.no_grad():
        for row in rows:
            logprobs = model(torch.tensor([row.tokens[:-1]]))[0].log_softmax(-1)[-row.scored :]
            targets = torch.tensor(row.tokens[-row.scored :])
            expected.append(float(logprobs.gather(1, targets[:, None]).sum()))
    found = Scorer(model, batch_tokens=64).score(rows)
    assert [score.loglikelihood for score in found] == pytest.approx(expected, abs=1e-4)
