"""What a point begins from, and the settings that all kinds of stages share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.config.kind_registry import find_kind
from workbench.config.plain import check_at_least, check_choice


@dataclass(frozen=True)
class KindSettings:
    """What a study's file says of one stage that comes after a recipe (`then`); each kind extends it."""

    kind: str
    """Name of the kind, as `workbench kinds` lists them."""

    @staticmethod
    def class_of(values: dict[str, Any]) -> type[KindSettings]:
        """Class of the settings by their plain values: their kind's own.

        Raises
        ------
        ValueError
            There is no such kind, or it is none that can come after a recipe.
        """
        if "kind" not in values:
            raise ValueError(f"then: {values!r} has no kind")
        settings = find_kind(str(values["kind"])).spec.Settings
        if not issubclass(settings, KindSettings):
            raise ValueError(f"then: kind={values['kind']!r} cannot come after a recipe")
        return settings

    @property
    def replaces_recipe(self) -> bool:
        """Whether it trains the recipe's phases itself, in place of plain training on text."""
        return False


@dataclass(frozen=True)
class InitConfig:
    """The weights that a point begins from."""

    kind: str = "none"
    """`none` draws them from `seed_init`; `imported` takes a checkpoint from outside."""
    path: str | None = None
    """A directory in Hugging Face's layout, or the name of a repository of its hub."""
    revision: str | None = None
    """Commit, branch or tag of a repository of the hub; None is its main branch. The commit is recorded."""
    adapter: str | None = None
    """A directory of LoRA adapters in peft's format, which are merged into the checkpoint; None takes it as it is."""
    tokens: int | None = None
    """Tokens that the checkpoint has been trained on elsewhere: where its point stands in a figure. 0 for one that was
    never trained."""
    annealed: bool = True
    """Whether its learning rate had been decayed: true of a finished training, false of a milestone on its way. Fits
    and tables tell the two apart."""
    name: str | None = None
    """What to call its model; None takes the directory's or repository's name."""
    context_tokens: int | None = None
    """Context to train and evaluate it with; None takes its own. A longer one than its own is refused."""
    fingerprint: str | None = None
    """Set by the planner: 16 hexadecimal digits that name config, weights and tokenizer by their content."""
    native_context_tokens: int | None = None
    """Set by the planner: positions that the checkpoint itself was made for, which may be more than its context here."""
    licence: str | None = None
    """Licence of the weights; None takes what the checkpoint's README.md says."""

    def __post_init__(self) -> None:
        """Refuse a checkpoint that is not fully named."""
        check_choice("init.kind", self.kind, ("none", "imported"))
        check_at_least("init.tokens", self.tokens, 0)
        check_at_least("init.context_tokens", self.context_tokens, 1)
        if self.kind == "none":
            given = [
                name for name in ("path", "revision", "adapter", "tokens", "name") if getattr(self, name) is not None
            ]
            if given:
                raise ValueError(f"init.{given[0]}={getattr(self, given[0])!r} is of a checkpoint: set init=hf, too")
        elif not self.path:
            raise ValueError("init=hf needs init.path: a directory in Hugging Face's layout, or a name on its hub")
        elif self.tokens is None:
            raise ValueError(
                "init=hf needs init.tokens: how many tokens the checkpoint has been trained on (0 for none), which is "
                "where it stands in a figure"
            )
