"""Registers model type `workbench` with `transformers`, for what Llama cannot represent.

After `import workbench.model.hf`, `AutoModelForCausalLM.from_pretrained(checkpoint)` reads every
checkpoint of this project; without it, those that Llama can represent. The files themselves are
`workbench.model.weights`' concern, whose names are repeated here; training imports that module, since
importing `transformers` takes seconds.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    initialization,
)
from transformers.modeling_outputs import CausalLMOutput

from workbench.config.schema import ModelConfig, from_dict
from workbench.model.init import initial_std
from workbench.model.transformer import Transformer
from workbench.model.weights import from_hf, hf_config, load_model, read_config, to_hf, write_hf

__all__ = [
    "WorkbenchConfig",
    "WorkbenchForCausalLM",
    "from_hf",
    "hf_config",
    "load_model",
    "read_config",
    "to_hf",
    "write_hf",
]


class WorkbenchConfig(PreTrainedConfig):
    """Configuration of model type `workbench`; attribute `workbench` holds our `ModelConfig` as a dict."""

    model_type = "workbench"

    def model_config(self) -> ModelConfig:
        """Our config."""
        return from_dict(ModelConfig, getattr(self, "workbench", None), where="config.json: workbench")


class WorkbenchForCausalLM(PreTrainedModel, GenerationMixin):
    """`Transformer` with the interface of `transformers`. Padding goes on the right; there is no cache."""

    config_class = WorkbenchConfig
    base_model_prefix = "transformer"

    def __init__(self, config: WorkbenchConfig) -> None:
        super().__init__(config)
        self.transformer = Transformer(config.model_config())
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding table."""
        return self.transformer.embedding

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what no checkpoint filled; `initialization`'s functions leave loaded tensors alone."""
        if not isinstance(module, Transformer):
            return
        module.reset_buffers()
        for name, parameter in module.named_parameters():
            std = initial_std(name, module.config)
            if std is None:
                initialization.ones_(parameter)
            else:
                initialization.normal_(parameter, 0.0, std)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Logits, and with labels (-100 ignored) the mean loss in nats.

        Raises
        ------
        ValueError
            `attention_mask` hides tokens before others that it shows, as padding on the left would.
        """
        if attention_mask is not None and bool((attention_mask.diff(dim=1) > 0).any()):
            raise ValueError("attention_mask hides tokens on the left: pad on the right")
        logits = self.transformer(input_ids)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)  # pyright: ignore[reportArgumentType]

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Feed the whole text anew for every token: without a cache, the default would cut it."""
        return {"input_ids": input_ids, "attention_mask": kwargs.get("attention_mask")}


AutoConfig.register(WorkbenchConfig.model_type, WorkbenchConfig, exist_ok=True)
AutoModelForCausalLM.register(WorkbenchConfig, WorkbenchForCausalLM, exist_ok=True)
