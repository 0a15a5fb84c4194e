"""What is prepared for reading computes what the model does."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.test_transformer import BASE, SWITCHES, make_model, random_tokens
from workbench.config.schema import LoraConfig
from workbench.model import reader as reader_module
from workbench.model.attention import attend, tree_mask
from workbench.model.lora import add_adapters
from workbench.model.past import Past
from workbench.model.reader import Reader, attend_in_pieces, can_read
from workbench.model.transformer import Transformer

ENDS = torch.tensor([[24] * 10 + [17] * 7 + [24] * 7, [22] * 8 + [15] * 4 + [13, 15, 15] + [22] * 7 + [23, 24]])
"""Behind the last token that follows each one: a trunk with two branches; one with branches of branches and padding."""


def lively_model(**changes: Any) -> Transformer:
    """A model whose gains and biases are not those of a new one, which would hide where they are applied."""
    model, draw = make_model(**changes), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter += 0.3 * torch.randn(parameter.shape, generator=draw)
    return model


def positions_of(ends_BT: Tensor) -> Tensor:
    """How many tokens each one follows."""
    place = torch.arange(ends_BT.shape[1])
    followed = (place < place[:, None]) & (place[:, None] < ends_BT[:, None, :])
    return followed.sum(-1)


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_every_switch_reads_plain_texts_as_the_model_does(changes: dict[str, Any]) -> None:
    model, tokens = lively_model(**changes), random_tokens()
    wanted = torch.tensor([3, 40, 23, 24])
    with torch.no_grad():
        expected = model(tokens).flatten(0, 1)
        reader = Reader(model)
        found = reader.head(reader.hidden(tokens, wanted))
        every = reader.head(reader.hidden(tokens, torch.arange(48)))
    torch.testing.assert_close(found, expected[wanted], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(every, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("piece_tokens", [1, 5, 32])
@pytest.mark.parametrize("past_tokens", [0, 6])
@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_every_switch_reads_trees_as_the_model_does(
    changes: dict[str, Any], past_tokens: int, piece_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without a past that each of them keeps for itself."""
    monkeypatch.setattr(reader_module, "PIECE_TOKENS", piece_tokens)
    model, tokens = lively_model(context_tokens=40, **changes), random_tokens()
    mask, positions = tree_mask(ENDS, past_tokens, torch.float32), positions_of(ENDS) + past_tokens
    reader, before = Reader(model), random_tokens(3)[2:, :past_tokens]
    pasts = {}
    with torch.no_grad():
        for name, read in (("model", model.hidden), ("reader", reader.hidden)):
            growing = [Past(grows=True) for _ in model.blocks]
            if past_tokens:
                read(before, *([torch.empty(0, dtype=torch.long)] if name == "reader" else []), pasts=growing)
            pasts[name] = [past.whole() for past in growing] if past_tokens else None
        whole = model.hidden(tokens, positions, mask_B1TS=mask, pasts=pasts["model"])
        expected = model.head(whole).flatten(0, 1)
        for wanted in (torch.arange(48), torch.tensor([9, 11, 47, 33]), torch.tensor([20]), torch.tensor([8, 24])):
            h = reader.hidden(tokens, wanted, positions, mask_B1TS=mask, trunk=8, pasts=pasts["reader"])
            torch.testing.assert_close(reader.head(h), expected[wanted], atol=1e-5, rtol=1e-5)


def test_pieces_of_attention_see_what_the_whole_sees() -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 24, heads, 8, generator=draw) for heads in (4, 2, 2))
    mask = tree_mask(ENDS, 0, torch.float32)
    whole = attend(q, k, v, "sdpa", mask)
    for trunk in (0, 5, 8):
        torch.testing.assert_close(attend_in_pieces(q, k, v, mask, trunk, None), whole)
    torch.testing.assert_close(attend_in_pieces(q[:, 7:], k, v, mask, 8, None), whole[:, 7:])


def test_reading_changes_neither_the_model_nor_what_is_read() -> None:
    model, tokens = lively_model(), random_tokens()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reader = Reader(model)
    first = reader.hidden(tokens, torch.arange(48))
    assert torch.equal(first, reader.hidden(tokens, torch.arange(48)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_cannot_be_prepared_is_left_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_read(make_model())
    assert not can_read(make_model().bfloat16())
    assert not can_read(Transformer(BASE).to("meta"))
    adapted = make_model()
    add_adapters(adapted, LoraConfig(rank=2), seed=0)
    assert not can_read(adapted)
    monkeypatch.setattr(reader_module, "PACKED_BYTES", 10_000)
    assert not can_read(make_model())
