"""Packing loses and doubles no token, and what is beside a conversation's own tokens counts for nothing."""

import random

import numpy as np
import pytest

from workbench.data.chat_templates import ChatTokens
from workbench.data.packing import lay_out, pack, shorten


def make_lengths(seed, count=200, room=65):
    draw = random.Random(seed)
    return [draw.randint(2, room) for _ in range(count)]


def make_chats(lengths, seed=0):
    draw = np.random.default_rng(seed)
    return [(draw.integers(3, 99, n), np.arange(n) > n // 2) for n in lengths]


@pytest.mark.parametrize("packing", ["best_fit", "none"])
@pytest.mark.parametrize("seed", range(5))
def test_every_conversation_is_in_one_sequence(packing, seed):
    lengths = make_lengths(seed)
    packed = pack(lengths, 65, packing)
    assert sorted(packed.order.tolist()) == list(range(len(lengths)))
    assert packed.starts[0] == 0
    assert packed.starts[-1] == len(lengths)
    assert (np.diff(packed.starts) > 0).all()
    totals = np.add.reduceat(np.array(lengths)[packed.order], packed.starts[:-1])
    assert totals.max() <= 65
    again = pack(lengths, 65, packing)
    assert again.order.tolist() == packed.order.tolist()
    assert again.starts.tolist() == packed.starts.tolist()
    if packing == "none":
        assert packed.order.tolist() == list(range(len(lengths)))
        assert (np.diff(packed.starts) == 1).all()
    else:  # at most 11/9 of the best, which is at least the tokens' share
        assert len(totals) <= 11 / 9 * -(-sum(lengths) // 65) + 1


def test_the_best_fit_is_taken():
    """6 opens the first sequence and 5 the second; 4 fits behind 6 exactly, and 3 behind 5."""
    packed = pack([3, 4, 5, 6], 10, "best_fit")
    assert np.split(packed.order, packed.starts[1:-1])[0].tolist() == [3, 1]
    assert np.split(packed.order, packed.starts[1:-1])[1].tolist() == [2, 0]


def test_odd_lengths():
    assert pack([], 10, "best_fit").starts.tolist() == [0]
    assert pack([10, 10], 10, "best_fit").order.tolist() == [0, 1]
    with pytest.raises(ValueError, match="a conversation of 11 tokens does not fit into a sequence of 10"):
        pack([3, 11], 10, "best_fit")


@pytest.mark.parametrize("lengths", [[5, 7, 3], [16], [17], [5, 12], [2]])
def test_a_sequence(lengths):
    chats, T = make_chats(lengths), 16
    tokens, weights, positions, documents = lay_out(chats, T, fill=1)
    assert (tokens.shape, weights.shape, positions.shape, documents.shape) == ((T + 1,), (T,), (T,), (T,))
    assert (tokens.dtype, weights.dtype, positions.dtype, documents.dtype) == ("i8", "f4", "i8", "i8")
    start = 0
    for number, (ids, loss) in enumerate(chats):
        end = start + len(ids)
        inputs = slice(start, min(end, T))
        assert tokens[start:end].tolist() == ids.tolist()
        assert documents[inputs].tolist() == [number] * (min(end, T) - start)
        assert positions[inputs].tolist() == list(range(min(end, T) - start))
        assert weights[start : end - 1].tolist() == loss[1:].tolist()
        if start:
            assert weights[start - 1] == 0
        start = end
    assert set(tokens[start:].tolist()) <= {1}
    assert not weights[max(0, start - 1) :].any()
    assert set(documents[start:].tolist()) <= {len(chats)}
    assert positions[start:].tolist() == list(range(max(0, T - start)))


def test_a_first_token_is_never_predicted_though_it_has_loss():
    ids = np.arange(4)
    weights = lay_out([(ids, np.ones(4, bool)), (ids, np.ones(4, bool))], 9, fill=0).weights
    assert weights.tolist() == [1, 1, 1, 0, 1, 1, 1, 0, 0]


def test_cut_at_a_turns_border():
    chat = ChatTokens(np.arange(20), np.isin(np.arange(20), [4, 5, 9, 10, 18]), (6, 11, 19))
    for room, expected in ((19, 19), (18, 11), (11, 11), (10, 6), (6, 6)):
        short = shorten(chat, room)
        assert short is not None
        assert len(short.tokens) == len(short.loss) == short.ends[-1] == expected
        assert short.tokens.tolist() == list(range(expected))
        assert short.loss[-1]
    assert shorten(chat, 5) is None
