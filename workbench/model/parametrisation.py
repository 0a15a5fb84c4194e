"""How initial values, multipliers and the optimizer's settings depend on a model's shape: one table.

With D the width, L the layers, K the head width, D0, L0 and K0 the base's (`ModelConfig.bases`), and m = D / D0:

| what                                     | `standard`         | `mup`                   | `complete_p`            |
|------------------------------------------|--------------------|-------------------------|-------------------------|
| initial std of embedding, positions, head | sqrt(2 / (5 D))   | sqrt(2 / (5 D0))        | sqrt(2 / (5 D0))        |
| initial std of hidden matrices           | sqrt(2 / (5 D))    | sqrt(2 / (5 D0)) / sqrt(m) | as `mup`             |
| of these, `attention.output`, `mlp.down` | 1 / (sqrt(D) L)    | 1 / (sqrt(D0) L sqrt(m)) | 1 / (sqrt(D0) L0 sqrt(m)) |
| logits                                   | W h                | W h / m                 | W h / m                 |
| attention scores                         | q k / sqrt(K)      | q k sqrt(K0) / K        | q k sqrt(K0) / K        |
| what a block adds to the stream x        | f(x)               | f(x)                    | f(x) L0 / L             |
| rate of hidden matrices, AdamW           | eta                | eta / m                 | eta / m                 |
| the same, Muon with `match_rms_adamw`    | eta                | eta / sqrt(m)           | eta / sqrt(m)           |
| the same, Muon with `original`           | eta                | eta                     | eta                     |
| rate of everything else, AdamW           | eta                | eta                     | eta                     |
| decay of hidden matrices, coupled        | lambda             | lambda                  | lambda eta / (their rate) |
| decay of everything else that decays     | lambda             | lambda                  | lambda                  |
| AdamW's epsilon within blocks            | eps                | eps                     | eps L0 / (m L)          |
| AdamW's epsilon elsewhere                | eps                | eps                     | eps / m                 |

Hidden matrices are those of the blocks. At D = D0, K = K0 and L = L0 all three are the same. `standard`'s hidden
matrices fall with the width as `mup`'s do; what differs is the rest. The feed-forward width is assumed to grow as the
width does.

Tied embeddings need no line of their own: embedding and head have one initial std and one rate in each column, which is
why the head is given a multiplier. Heads that share keys and values have the same width of input, which is what the
factors go by, so grouped queries change nothing.

Muon's updates have equal singular values s, so that a hidden state changes by s itself and not, as under AdamW, by up
to the sum of a row. `mup` asks for changes that do not depend on the width (Yang, Simon & Bernstein, condition 1). Of a
matrix whose sides are in a fixed ratio, `original` has that already, and under `match_rms_adamw` s grows as sqrt(D).
Depth needs no factor: an update's size does not depend on the gradient's.

What is flat
------------
Coordinate checks (`tests/train/test_coordinates.py`) hold, within 10% after ten steps of either optimizer, to what the table
is for, from a base of width 64 and heads of 16:

- in the width, to eight times the base's, in more heads as in wider ones: the mean size of the residual stream after each
  block, and of the logits, of a head that begins at zero. A random head's own logits fall as 1 / sqrt(m) and are outgrown
  as slowly. What attention's scores learn tends to a limit that does not depend on K, but not within 10% at these widths;
- in the depth (`complete_p`), from 8 to 32 layers: the stream at half the depth and at its end, of blocks that begin by
  adding nothing. It says what was learnt, not what initial values add, which shrinks as 1 / sqrt(L); between few layers
  what is of the order of 1 / L still shows. It says nothing of one block, whose part is to fall as L0 / L;
- in both at once (`complete_p`), width 64 to 256 with 8 to 32 layers: the same of the stream as in the depth.

References
----------
`mup`: Yang et al., "Tensor Programs V", arXiv:2203.03466, table 8 (Adam) and section 4 for attention. `complete_p`: Dey
et al., "Don't be lazy: CompleteP enables compute-efficient deep transformers", arXiv:2505.01618, table 1 with alpha = 1.
Muon: Yang, Simon & Bernstein, "A spectral condition for feature learning", arXiv:2310.17813.
"""

from __future__ import annotations

import math

from workbench.config.schema import ModelConfig, OptimizerConfig


def is_hidden_matrix(name: str) -> bool:
    """Whether a parameter, by its name in `Transformer.state_dict()`, is a matrix of a block."""
    return name.startswith("blocks.") and name.endswith(".weight") and "norm" not in name


def width_ratio(config: ModelConfig) -> float:
    """Width over the base's, m; 1 under `standard`."""
    return 1.0 if config.parametrisation == "standard" else config.width / config.bases.width


def depth_ratio(config: ModelConfig) -> float:
    """Layers over the base's; 1 but under `complete_p`."""
    return config.num_layers / config.bases.layers if config.parametrisation == "complete_p" else 1.0


def output_multiplier(config: ModelConfig) -> float:
    """Multiply the logits by this."""
    return 1 / width_ratio(config)


def residual_multiplier(config: ModelConfig) -> float:
    """Multiply what attention and feed-forward block add to the residual stream by this."""
    return 1 / depth_ratio(config)


def attention_scale(config: ModelConfig) -> float | None:
    """Multiply products of queries and keys by this; None is the usual 1 / sqrt(K)."""
    if config.parametrisation == "standard" or config.bases.head_width == config.head_width:
        return None
    return math.sqrt(config.bases.head_width) / config.head_width


def is_plain(config: ModelConfig) -> bool:
    """Whether no multiplier differs from the standard ones, so that the weights alone say what the model computes."""
    return output_multiplier(config) == residual_multiplier(config) == 1 and attention_scale(config) is None


def rate_factor(name: str, config: ModelConfig, optimizer: OptimizerConfig) -> float:
    """Ratio of one parameter's learning rate to the schedule's."""
    if not is_hidden_matrix(name):
        return 1.0
    if optimizer.kind == "adamw":
        return 1 / width_ratio(config)
    return 1 / math.sqrt(width_ratio(config)) if optimizer.rate_adjustment == "match_rms_adamw" else 1.0


def decay_factor(name: str, config: ModelConfig, optimizer: OptimizerConfig) -> float:
    """Ratio of one parameter's weight decay, where it decays, to the optimizer's, coupled to the learning rate."""
    return 1 / rate_factor(name, config, optimizer) if config.parametrisation == "complete_p" else 1.0


def eps_factor(name: str, config: ModelConfig) -> float:
    """Ratio of AdamW's epsilon for one parameter to the optimizer's."""
    if config.parametrisation != "complete_p":
        return 1.0
    depth = depth_ratio(config) if name.startswith("blocks.") else 1.0
    return 1 / (width_ratio(config) * depth)
