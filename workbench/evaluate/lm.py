"""lm-eval's language-model interface over our `Transformer`.

Tokens, prefixes, windows and truncation follow lm-eval's own `hf` model (`lm_eval/models/huggingface.py`),
so that a checkpoint gets the same scores from both; but for whole texts of a tokenizer that adds BOS, see
`WorkbenchLM.loglikelihood_rolling`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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

from workbench.evaluate.generator import Generator, Prompt
from workbench.evaluate.sampling import Sampling
from workbench.evaluate.scoring import Row, Scorer
from workbench.model.reader import LazyReader
from workbench.model.transformer import Transformer

_SAMPLING_OPTIONS = ("do_sample", "temperature", "top_k", "top_p")
_NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "use_cache": True}
"""Options that tasks name with the value that changes nothing."""


class WorkbenchLM(TemplateLM):
    """A model and its tokenizer with the interface that lm-eval expects.

    Parameters
    ----------
    model
        The model, on the device it is to run on.
    tokenizer
        A Hugging Face tokenizer; whether it adds BOS to a context is its own decision, as with `hf`.
    batch_tokens
        Padded tokens per forward pass, at most.
    precision
        `fp32` or `bf16`.
    encodings
        Token ids by text, filled as needed; pass the same mapping again for the next checkpoint
        with the same tokenizer.
    stop_ids
        Ids that end what the model writes, beside the end of sequence.

    Attributes
    ----------
    encoded_alone
        Continuations so far that were encoded separately from their contexts, which `hf` would not score.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Any,
        *,
        batch_tokens: int,
        precision: str = "fp32",
        encodings: dict[tuple[str, bool | None], list[int]] | None = None,
        stop_ids: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        reader = LazyReader(model, precision)  # what it prepares takes time and as much memory as the model
        self.scorer = Scorer(model, batch_tokens, precision, reader)
        self.generator = Generator(
            model,
            eos_ids=sorted({self.eot_token_id, *stop_ids}),
            decode=lambda ids: tokenizer.decode(ids),
            precision=precision,
            reader=reader,
        )
        self.encoded_alone = 0
        self._encodings = {} if encodings is None else encodings
        self._device = self.scorer.device
        self._bos_text = tokenizer.decode(self.prefix_token_id)

    @property
    def eot_token_id(self) -> int:
        """Id of the token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """Id of the token before a text without context: BOS where there is one."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def max_length(self) -> int:
        """Longest context of the model, in tokens."""
        return self.scorer.model.config.context_tokens

    @property
    def tokenizer_name(self) -> str:
        """Name under which lm-eval would cache requests."""
        return self.tokenizer.name_or_path

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a text; a text that begins with BOS gets a second one only on request."""
        key = (string, add_special_tokens)
        if key not in self._encodings:
            self._encode_all([key])
        return self._encodings[key]

    def _encode_all(self, keys: Iterable[tuple[str, bool | None]]) -> None:
        """Encode texts that are not known yet, in as few calls as possible: one a text takes twice the time of them all."""
        alike: dict[bool | None, dict[tuple[str, bool | None], str]] = {}
        for key in keys:
            text, special = key
            if key not in self._encodings:
                if special is None and has_bos_prefix(text, self._bos_text):
                    special = False
                alike.setdefault(special, {})[key] = text
        for special, texts in alike.items():
            options = {} if special is None else {"add_special_tokens": special}
            found = self.tokenizer(list(texts.values()), **options)["input_ids"]
            self._encodings.update(zip(texts, found, strict=True))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation given its context, and whether it is greedy.

        Raises
        ------
        ValueError
            A continuation has no tokens, or more than the model reads at once, which `hf` refuses as well: the line
            names the task, the document and the texts.
        """
        known = [self._known_ids(request.doc) for request in requests]
        texts = [request.args for request, ids in zip(requests, known, strict=True) if ids is None]
        self._encode_all(key for pair in texts for key in _texts_to_encode(*pair))
        rows = []
        for request, ids in zip(requests, known, strict=True):
            with _naming(request):
                rows.append(self._row(*(ids or self._split(*request.args))))
        return [(score.loglikelihood, score.is_greedy) for score in self.scorer.score(rows)]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        scores = self.scorer.score([self._row(context, continuation) for _, context, continuation in requests])
        return [(score.loglikelihood, score.is_greedy) for score in scores]

    def _known_ids(self, document: Any) -> tuple[list[int], list[int]] | None:
        """Token ids of a document that brings its own, as conversations do: of the prompt, and of the response's text.

        A template's marks are tokens that no text becomes, and its last white space is the prompt's. What ends the
        response (an end of sequence, `<|im_end|>`) is left out, since it is none of the response's bytes.
        """
        if not isinstance(document, dict) or "response_tokens" not in document:
            return None
        ids: list[int] = list(document["response_tokens"])
        text = document["response"].strip()
        while len(ids) > 1 and self.tokenizer.decode(ids[:-1]).strip().startswith(text):
            ids = ids[:-1]
        return list(document["prompt_tokens"]), ids

    def _split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of a context and of its continuation, split where `hf` splits them.

        Where that leaves nothing to score, since the continuation became part of the context's last token, `hf` stops
        with an assertion. Here the continuation is then encoded alone, as lm-eval's maintainers recommend
        (EleutherAI/lm-evaluation-harness issue 1053, pull request 4055), and `encoded_alone` counts it.
        """
        if context == "":
            ids = self.tok_encode(continuation, add_special_tokens=False)
            return (ids[:1], ids[1:]) if ids[:1] == [self.prefix_token_id] else ([self.prefix_token_id], ids)
        context_ids, ids = self._encode_pair(context, continuation)
        if not ids:
            spaces = context[len(context.rstrip()) :]
            ids = self.tok_encode(spaces + continuation, add_special_tokens=False)
            self.encoded_alone += bool(ids)
        # A context of white space only is moved to the continuation, which leaves it empty.
        return context_ids or [self.prefix_token_id], ids

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of whole texts, in windows of the model's context that overlap by one token.

        One token without a score stands before each text, whether or not the tokenizer adds it by itself. `hf` does so
        with `add_bos_token=False`; left to itself, it puts the tokenizer's BOS behind its own, and has the text pay
        for it.
        """
        texts = []
        for request in requests:
            with _naming(request):
                texts.append([self._row(*window) for window in self._windows(*request.args)])
        scores = iter(self.scorer.score([row for rows in texts for row in rows]))
        return [sum(next(scores).loglikelihood for _ in rows) for rows in texts]

    def loglikelihood_tokens(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[list[tuple[float, int]]]:
        """Log-likelihood (nats) and bytes of each token of a text's beginning, as much as the model reads at once.

        It follows the token before a text without context; `hf` has no such method.
        """
        rows, sizes = [], []
        for request in requests:
            with _naming(request):
                ids, counts = self._beginning(*request.args)
                rows.append(self._row([self.prefix_token_id], ids))
                sizes.append(counts)
        scores = self.scorer.logprobs(rows)
        return [list(zip(score.tolist(), counts, strict=True)) for score, counts in zip(scores, sizes, strict=True)]

    def _beginning(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids, and how many bytes of the text each adds; of a character in several tokens, the first has them."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, ends = (encoded[key][: self.max_length] for key in ("input_ids", "offset_mapping"))
        sizes, done = [], 0
        for _, end in ends:
            sizes.append(len(text[done:end].encode()))
            done = max(done, end)
        return ids, sizes

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text, add_special_tokens=False),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return [make_disjoint_window(window) for window in windows]

    def _row(self, context: list[int], continuation: list[int]) -> Row:
        if not continuation:
            raise ValueError("the continuation has no tokens: there is nothing to score")
        if len(continuation) > self.max_length:
            raise ValueError(f"a continuation of {len(continuation)} tokens in a context of {self.max_length}")
        # A context that is too long loses its beginning, as with `hf`.
        return Row((context + continuation)[-(self.max_length + 1) :], len(continuation))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Continuation of each context up to a stop sequence, an end of sequence or the task's length limit.

        Contexts lose their beginning, as with `hf`, where the model's context has no room for all that may follow.
        Options are lm-eval's: `until`, `max_gen_toks`, `do_sample`, `temperature`, `top_k` (50 unless given, which is
        `transformers`' own) and `top_p`. Draws are decided by the context and by how often it came before, so that a
        text does not depend on the requests beside it.

        Raises
        ------
        ValueError
            A task asks for an option that is none of these, or for more tokens than the model's context holds.
        """
        prompts: list[Prompt] = []
        seen: Counter[str] = Counter()
        for request in requests:
            arguments: tuple[Any, ...] = request.args
            context, options = arguments
            with _naming(request):
                prompts.append(self._prompt(context, options, seen[context]))
                self.generator.check(prompts[-1])
            seen[context] += 1
        found = self.generator.generate(prompts)
        texts = [self.tokenizer.decode(one.tokens, skip_special_tokens=True) for one in found]
        return [
            postprocess_generated_text(text, stop=list(prompt.stops), think_end_token=None)
            for text, prompt in zip(texts, prompts, strict=True)
        ]

    def _prompt(self, context: str, options: dict[str, Any], repeat: int) -> Prompt:
        kwargs: dict[str, Any] = dict(normalize_gen_kwargs(options, 256))
        stops = handle_stop_sequences(kwargs.pop("until", None), eos=self.tokenizer.decode(self.eot_token_id))
        limit = kwargs.pop("max_gen_toks")
        if limit >= self.max_length:
            raise ValueError(f"max_gen_toks={limit} leaves no room for a text in a context of {self.max_length} tokens")
        tokens = list(self.tok_encode(context) or [self.prefix_token_id])[-(self.max_length - limit) :]
        return Prompt(tokens, limit, tuple(stops), _sampling(kwargs, f"{repeat} {context}"))


def _texts_to_encode(context: str, continuation: str) -> Iterator[tuple[str, bool | None]]:
    """Give what `WorkbenchLM._split` encodes of nearly every pair, as `tok_encode` takes it."""
    if context == "":
        yield continuation, False
    else:
        yield context + continuation, None
        yield context.rstrip(), None


def _sampling(options: dict[str, Any], text: str) -> Sampling | None:
    """Read what a task's remaining options ask for, with a seed from a text.

    Raises
    ------
    ValueError
        An option is not known, unless its value is the one that changes nothing.
    """
    for name, value in options.items():
        if name not in _SAMPLING_OPTIONS and (name not in _NEUTRAL or value != _NEUTRAL[name]):
            known = ", ".join(("until", "max_gen_toks", *_SAMPLING_OPTIONS))
            raise ValueError(f"generation option {name}={value!r} is not supported, only {known}")
    if not options.get("do_sample"):
        return None
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
    top_k = options.get("top_k", 50) or None  # 0 is no limit, as in `transformers`
    return Sampling(float(options.get("temperature", 0.0)), top_k, options.get("top_p"), seed)


@contextlib.contextmanager
def _naming(request: Instance) -> Iterator[None]:
    """Add the task, the document and its texts to a `ValueError`."""
    try:
        yield
    except ValueError as error:
        known = request.doc.get("id")
        number = "" if known is None else f" (id {known!r})"
        texts = ", ".join(repr(_shorten(text)) for text in request.args if isinstance(text, str))
        raise ValueError(f"document {request.doc_id}{number} of task {request.task_name}: {error}; {texts}") from error


def _shorten(text: str, characters: int = 60) -> str:
    """End of a text, where context and continuation meet."""
    return text if len(text) <= characters else f"...{text[-characters:]}"
