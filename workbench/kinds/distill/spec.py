"""Settings and stage of a distillation: who teaches, how much the teacher counts, and where the student begins."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.config.plain import check_above, check_at_least, check_choice
from workbench.config.schema import KindSettings, ModelConfig, Parent, TrainingStage, circumstance, identity
from workbench.tracking.names import tokens_label

STUDENTS = ("fresh", "chain")


@dataclass(frozen=True)
class TeacherSettings:
    """A model that the study trains, as `model` and `tokens` say, or a checkpoint from outside, at `path`."""

    model: ModelConfig | None = None
    """Model of the study's own teacher: a file of `conf/model`, chosen by `/model@then.distill.teacher.model`. A checkpoint
    from outside brings its own."""
    tokens: int | None = None
    """Training budget of the study's own teacher, whose recipe, data and seeds are the point's; or the tokens that a
    checkpoint from outside has been trained on elsewhere (0 for none)."""
    path: str | None = None
    """A directory in Hugging Face's layout, or the name of a repository of its hub; None trains the teacher here."""
    revision: str | None = None
    """Commit, branch or tag of a repository of the hub; None is its main branch. The commit is recorded."""
    fingerprint: str | None = None
    """Set by the planner: 16 hexadecimal digits that name the checkpoint from outside by its content."""
    vocabulary: str | None = None
    """Set by the planner: 16 hexadecimal digits that name the ids of its tokenizer."""
    licence: str | None = None
    """Licence of its weights; None takes what its README.md says."""
    top_k: int | None = None
    """Most probable ids of each token that are computed once, kept, and read by all students of the same sequences; None
    asks the teacher anew for every batch, and compares all ids."""

    def __post_init__(self) -> None:
        """Refuse a teacher that is not fully named."""
        check_at_least("teacher.tokens", self.tokens, 0 if self.path else 1)
        check_at_least("teacher.top_k", self.top_k, 1)
        if self.model is None and self.path is None:
            raise ValueError(
                "a distillation needs a teacher: choose its model by /model@then.distill.teacher.model in the study's "
                "defaults, or set teacher.path to a checkpoint"
            )
        if self.tokens is None:
            raise ValueError("teacher.tokens is not set: how many tokens has the teacher been trained on?")
        if self.path is None and self.revision is not None:
            raise ValueError(f"teacher.revision={self.revision!r} is of a checkpoint: set teacher.path, too")


@dataclass(frozen=True)
class Settings(KindSettings):
    """Train by the point's recipe on `alpha temperature^2 KL(teacher || student) + (1 - alpha) CE`.

    References
    ----------
    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """

    kind: str = "distill"
    """Name of the kind."""
    student: str = "fresh"
    """`fresh` begins from initial weights, and distils in place of the recipe's training on text; `chain` goes on from
    what is before, by the recipe once more, with a fresh optimizer."""
    tokens: int | None = None
    """Budget of the distillation; None takes the point's own (`tokens`, or `flops`, which the teacher's forward pass
    shares)."""
    alpha: float = 0.5
    """Share of the teacher's distribution in the loss, against the text's own next tokens. 0 is plain training, without a
    teacher; 1 is the teacher alone."""
    temperature: float = 1.0
    """Of both distributions in the divergence."""
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    """Who teaches."""

    def __post_init__(self) -> None:
        """Refuse shares and temperatures that mean nothing."""
        check_choice("student", self.student, STUDENTS)
        check_at_least("distill.tokens", self.tokens, 1)
        check_above("temperature", self.temperature, 0)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha!r} must lie in [0, 1]")

    @property
    def replaces_recipe(self) -> bool:
        """Whether the recipe's phases are distilled, and not trained on text alone."""
        return self.student == "fresh"


@dataclass(frozen=True, kw_only=True)
class Spec(TrainingStage):
    """A phase of a recipe whose loss compares the student with `inputs["teacher"]`."""

    kind: str = identity(default="distill")
    """Name of its kind."""
    alpha: float = identity()
    """Share of the teacher's distribution in the loss."""
    temperature: float = identity()
    """Of both distributions in the divergence."""
    teacher: ModelConfig = identity()
    """Model of the teacher's checkpoint."""
    top_k: int | None = identity(younger=True, default=None)
    """Ids of each token that the divergence looks at; None looks at all."""
    logits: str | None = circumstance(default=None)
    """Id of the stage that keeps them; other fields of the id say which it is."""
    vocabulary: str | None = circumstance(default=None)
    """Names the ids of the tokenizer of a teacher from outside; they must be those of the data."""

    @property
    def variety(self) -> str:
        """How it was distilled, and from whom: the teacher's model and tokens; not its phase."""
        taught = f"{self.teacher.name} {tokens_label(self.inputs['teacher'].tokens)}"
        return f"{describe(self.alpha, self.temperature, self.top_k)} from {taught}"

    @property
    def references(self) -> list[Parent]:
        """The checkpoints that it reads: kept logits in place of the teacher's, where there are any."""
        if self.logits is None:
            return super().references
        return [*([self.parent] if self.parent else []), Parent(self.logits, self.end_tokens - self.origin.tokens)]

    @property
    def follows_recipe(self) -> bool:
        """Yes: its phases are the recipe's, and so is its text."""
        return True


def describe(alpha: float, temperature: float, top_k: int | None = None) -> str:
    """Say how a student was distilled, with what is not 1: `distilled 0.5 T2 top 50`."""
    share = "" if alpha == 1 else f" {alpha:g}"
    return f"distilled{share}" + ("" if temperature == 1 else f" T{temperature:g}") + (f" top {top_k}" if top_k else "")
