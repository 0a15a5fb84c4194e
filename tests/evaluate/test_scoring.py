"""Scores are what the model says of each continuation, however they are batched."""

import pytest
import torch

from tests.evaluate.conftest import tiny_model
from workbench.evaluate.scoring import Row, Scorer, _is_argmax
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer


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
    for batch_tokens in (1, 64, 10_000):
        found = Scorer(model, batch_tokens).score(rows)
        assert [score.loglikelihood for score in found] == pytest.approx(expected, abs=1e-4)


def test_ties_are_broken_as_argmax_breaks_them() -> None:
    """Token 3 and token 7 have equal embeddings: greedy decoding takes the first."""
    model = Transformer(tiny_model(tie_embeddings=True))
    init_weights(model, seed=5)
    with torch.no_grad():
        model.embedding.weight.mul_(0.01)
        model.embedding.weight[3] = model.norm.weight
        model.embedding.weight[7] = model.embedding.weight[3]
        hidden = model.hidden(torch.tensor([[3]]))[0, 0]
    assert hidden.sum() > 0  # so that the logits of 3 and 7 are the largest
    first, second = Scorer(model, 64).score([Row([3, 3], 1), Row([3, 7], 1)])
    assert first.loglikelihood == second.loglikelihood
    assert (first.is_greedy, second.is_greedy) == (True, False)


def test_a_target_is_greedy_where_argmax_gives_it() -> None:
    """Logits of few values, so that the largest comes once, twice and more often, before and behind the target."""
    logits_NV = torch.randint(3, (2000, 8), generator=torch.Generator().manual_seed(0)).float()
    targets_N = torch.arange(2000) % 8
    expected_N = logits_NV.argmax(-1) == targets_N
    assert torch.equal(_is_argmax(logits_NV.clone(), targets_N), expected_N)
    assert 0 < expected_N.sum() < 1000
