"""lm-eval's language-model interface over our `Transformer`.

Tokens, prefixes, windows and truncation follow lm-eval's own `hf` model (`lm_eval/models/huggingface.py`),
so that a checkpoint gets the same scores from both.
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from workbench.evaluate.scoring import Row, Score, Scorer
from workbench.model.transformer import Transformer


class WorkbenchLM(TemplateLM):
    """A model and its tokenizer, as lm-eval asks for them.

    Parameters
    ----------
    model
        The model, on the device it shall run on.
    tokenizer
        A Hugging Face tokenizer; whether it adds BOS by itself is its own affair, as with `hf`.
    batch_tokens
        Padded tokens a forward pass at the most.
    precision
        `fp32` or `bf16`.
    encodings
        Token ids by text, filled as they are needed; pass the same mapping again for the next checkpoint
        with the same tokenizer.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Any,
        *,
        batch_tokens: int,
        precision: str = "fp32",
        encodings: dict[tuple[str, bool | None], list[int]] | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.scorer = Scorer(model, batch_tokens, precision)
        self._encodings = {} if encodings is None else encodings
        self._device = self.scorer.device
        self._bos_text = tokenizer.decode(self.prefix_token_id)

    @property
    def eot_token_id(self) -> int:
        """Id that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """Id that stands before a text without context: BOS where there is one."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def max_length(self) -> int:
        """Tokens the model reads at once."""
        return self.scorer.model.config.context_tokens

    @property
    def tokenizer_name(self) -> str:
        """Name under which lm-eval would cache requests."""
        return self.tokenizer.name_or_path

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a text; a text that begins with BOS gets no second one unless asked for."""
        key = (string, add_special_tokens)
        if key not in self._encodings:
            if add_special_tokens is None and has_bos_prefix(string, self._bos_text):
                add_special_tokens = False
            special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
            self._encodings[key] = self.tokenizer.encode(string, **special)
        return self._encodings[key]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation given its context, and whether it is greedy."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        return [(score.loglikelihood, score.is_greedy) for score in self._score([r[1:] for r in requests])]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of whole texts, in windows of the model's context that overlap by one token."""
        texts = [self._windows(*request.args) for request in requests]
        scores = iter(self._score([window for windows in texts for window in windows]))
        return [sum(next(scores).loglikelihood for _ in windows) for windows in texts]

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return [make_disjoint_window(window) for window in windows]

    def _score(self, pairs: list[tuple[list[int], list[int]]]) -> list[Score]:
        rows = []
        for context, continuation in pairs:
            if not 0 < len(continuation) <= self.max_length:
                raise ValueError(f"a continuation of {len(continuation)} tokens in a context of {self.max_length}")
            # Too long a context loses its beginning, as with `hf`.
            rows.append(Row((context + continuation)[-(self.max_length + 1) :], len(continuation)))
        return self.scorer.score(rows)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Greedy continuation of each context up to a stop sequence or the task's length limit.

        Raises
        ------
        ValueError
            A task asks for sampling, or for more tokens than the model's context holds.
        """
        return [self._generate(*request.args) for request in requests]

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        kwargs: dict[str, Any] = dict(normalize_gen_kwargs(options, 256))
        stops = handle_stop_sequences(kwargs.get("until"), eos=self.tokenizer.decode(self.eot_token_id))
        limit = kwargs["max_gen_toks"]
        if kwargs.get("do_sample") or limit >= self.max_length:
            raise ValueError(f"generation options {options!r}: only greedy decoding within {self.max_length} tokens")
        tokens = list(self.tok_encode(context))[-(self.max_length - limit) :]
        start, text = len(tokens), ""
        while len(tokens) < start + limit and not any(stop in text for stop in stops if stop):
            tokens.append(self.scorer.next_token(tokens))
            if tokens[-1] == self.eot_token_id:
                break
            text = self.tokenizer.decode(tokens[start:], skip_special_tokens=True)
        return postprocess_generated_text(text, stop=stops, think_end_token=None)
