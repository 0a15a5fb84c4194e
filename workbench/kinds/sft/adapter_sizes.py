"""What adapters of a model hold, and which can be trained: known from the settings alone."""

from __future__ import annotations

from workbench.config.schema import LoraConfig, ModelConfig, NumericsConfig, ResourcesConfig
from workbench.study.memory import FP32


def check_adapters(
    where: str, lora: LoraConfig, model: ModelConfig, numerics: NumericsConfig, resources: ResourcesConfig
) -> None:
    """Refuse adapters on matrices that the model lacks, and those of a model that is shared out.

    Parameters
    ----------
    where
        Name of the settings that hold `lora`.

    Raises
    ------
    ValueError
        The line names the setting.
    """
    there = [part for _, rows in _matrices(model) for part in rows]
    lacking = [name for name in lora.targets if name not in there]
    if lacking:
        raise ValueError(
            f"{where}.lora.targets={lora.targets!r}: a model of model.mlp={model.mlp!r} has no {lacking[0]}: set it to "
            f"some of [{', '.join(there)}]"
        )
    if numerics.parallel != "replicate" and resources.processes != 1:
        raise ValueError(
            f"{where}.lora: adapters cannot be trained with numerics.parallel={numerics.parallel!r}: use replicate, or set "
            "resources.processes=1"
        )


def adapter_parameters(model: ModelConfig, targets: list[str], rank: int) -> int:
    """Count the parameters of the adapters of a model."""
    sizes = {part: inputs + outputs for inputs, rows in _matrices(model) for part, outputs in rows.items()}
    return model.num_layers * rank * sum(sizes[target] for target in targets)


def adapted_matrices(model: ModelConfig, targets: list[str]) -> list[int]:
    """Count the weights of each of a block's matrices, fused as they are kept, that have an adapter on some rows."""
    return [inputs * sum(rows.values()) for inputs, rows in _matrices(model) if rows.keys() & set(targets)]


def _matrices(model: ModelConfig) -> list[tuple[int, dict[str, int]]]:
    """List a block's matrices, fused as they are kept: inputs, and the rows of each part."""
    keys, width, hidden = model.num_kv_heads * model.head_width, model.width, model.mlp_width
    gate_up = {"gate_proj": hidden, "up_proj": hidden} if model.mlp == "swiglu" else {"up_proj": hidden}
    return [
        (width, {"q_proj": width, "k_proj": keys, "v_proj": keys}),
        (width, {"o_proj": width}),
        (width, gate_up),
        (hidden, {"down_proj": width}),
    ]


def is_quantised(lora: LoraConfig | None) -> bool:
    """Whether the frozen matrices that have adapters are kept in 4 bits."""
    return lora is not None and lora.quantize != "none"


def four_bit_bytes(weights: int) -> int:
    """Bytes of weights in NF4: 4 bits each, and a magnitude in fp32 for every 64."""
    return weights // 2 + FP32 * (-(-weights // 64))
