"""Where a text that is being generated ends, and what of it can be shown already."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
"""Text of token ids."""

_UNFINISHED = "\ufffd"
"""What tokens decode to that end within a character."""
_MARGIN = 8
"""Tokens before those of interest that are decoded with them, since a decoder may treat the first ones differently."""


class StopStrings:
    """Finds stop strings in texts, wherever tokens begin and end.

    Only the last tokens are decoded, and only where the newest can end a stop string, since decoding a whole text for
    each of its tokens takes longer than the model does.

    Parameters
    ----------
    stops
        The strings; empty ones stop nothing.
    decode
        Text of token ids, special tokens included.
    """

    def __init__(self, stops: Sequence[str], decode: Decode) -> None:
        self.stops = [stop for stop in stops if stop]
        self._decode = decode
        self._window = max((len(stop.encode()) for stop in self.stops), default=0) + _MARGIN
        self._last = {stop[-1] for stop in self.stops} | {_UNFINISHED}
        self._can_end: dict[int, bool] = {}

    def end(self, tokens: Sequence[int]) -> bool:
        """Whether the newest of these tokens completes a stop string."""
        if not self.stops or not self._may_end(tokens[-1]):
            return False
        text = self._decode(tokens[-self._window :])
        return any(stop in text for stop in self.stops)

    def _may_end(self, token: int) -> bool:
        known = self._can_end.get(token)
        if known is None:
            # Twice, since a decoder may leave out the space with which a text begins.
            known = self._can_end[token] = not self._last.isdisjoint(self._decode([token, token]))
        return known


class TextStream:
    """Text of tokens as they come: whole characters, and nothing of a stop string.

    Parameters
    ----------
    decode
        Text of token ids, special tokens left out.
    prompt
        Token ids before the text, which decide whether it begins with a space.
    stops
        Strings before which the text ends.
    """

    def __init__(self, decode: Decode, prompt: Sequence[int] = (), stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, [stop for stop in stops if stop]
        self._tokens = list(prompt[-_MARGIN:])
        self._start, self._done = 0, len(self._tokens)
        self._held, self._ended = "", False

    def push(self, token: int) -> str:
        """Text that a further token makes certain; it may be empty."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._start : self._done])
        now = self._decode(self._tokens[self._start :])
        if now.endswith(_UNFINISHED) or self._ended:
            return ""
        self._start, self._done = self._done, len(self._tokens)
        return self._pass(now[len(before) :])

    def close(self) -> str:
        """Text that was held back, at the end."""
        before = self._decode(self._tokens[self._start : self._done])
        now = self._decode(self._tokens[self._start :])
        text = "" if self._ended else self._pass(now[len(before) :])
        return text + self._held

    def _pass(self, text: str) -> str:
        """Hold back what may be the beginning of a stop string, and leave out what is one."""
        text = self._held + text
        places = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if places:
            self._held, self._ended = "", True
            return text[: min(places)]
        beginnings = (n for stop in self._stops for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n]))
        kept = max(beginnings, default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]
