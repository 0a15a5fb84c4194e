"""Examples of what is removed from a corpus, by cause, for people to read.

Of each cause those documents are kept whose keys are smallest, so that the samples depend neither on the order of documents
nor on how they are spread over shards: samples of shards merge to those of the whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Removed(NamedTuple):
    """A removed document; they are ordered by their fields, the key first."""

    key: str
    """SHA-256 of the whole text, in hexadecimal."""
    cause: str
    """Such as `gopher_min_words`."""
    source: str
    """Where it is from, such as a source's name, a file and a row."""
    value: str
    """What was measured, as JSON; `null` if the cause has no value."""
    text: str
    """Beginning of the text."""


class RemovedSamples:
    """Of every cause the documents with the smallest keys.

    Parameters
    ----------
    count
        Documents to keep of each cause.
    most_bytes
        Of each text at most as many bytes (UTF-8), cut between two characters.

    Raises
    ------
    ValueError
        A number is below one.
    """

    def __init__(self, count: int = 20, most_bytes: int = 2000) -> None:
        for name, value in (("count", count), ("most_bytes", most_bytes)):
            if value < 1:
                raise ValueError(f"{name}={value!r} of removed samples must be at least 1")
        self.count = count
        self.most_bytes = most_bytes
        self._kept: dict[str, set[Removed]] = {}
        self._largest: dict[str, str] = {}
        """Largest key of the causes that have as many as are kept."""

    def add(
        self, cause: str, text: str, source: str, value: float | str | None = None, key: bytes | None = None
    ) -> None:
        """Note a removed document.

        Parameters
        ----------
        cause
            Why it is removed.
        text
            The whole text.
        source
            Where it is from; two equal texts from different places are two examples.
        value
            What was measured, if the cause measures something.
        key
            SHA-256 of the text's UTF-8, if it is known.
        """
        name = key.hex() if key is not None else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        if name > self._largest.get(cause, name):
            return
        self._put([Removed(name, cause, source, json.dumps(value), cut(text, self.most_bytes))])

    def merge(self, other: RemovedSamples) -> RemovedSamples:
        """Give the samples of what was removed here and there.

        Raises
        ------
        ValueError
            They keep different numbers of documents or bytes.
        """
        mine, its = (self.count, self.most_bytes), (other.count, other.most_bytes)
        if mine != its:
            raise ValueError(f"removed samples of {mine} and {its} documents and bytes cannot be merged")
        merged = RemovedSamples(*mine)
        merged._put([*self.documents(), *other.documents()])
        return merged

    def documents(self) -> list[Removed]:
        """All samples, by cause and key."""
        return [one for cause in sorted(self._kept) for one in sorted(self._kept[cause])]

    def write(self, path: Path) -> None:
        """Write a line of JSON a document: cause, value, source, text, key.

        The bytes depend on the samples alone.
        """
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for one in self.documents():
                record = {"cause": one.cause, "value": json.loads(one.value), "source": one.source, "text": one.text}
                file.write(json.dumps(record | {"key": one.key}) + "\n")

    @classmethod
    def read(cls, path: Path, count: int = 20, most_bytes: int = 2000) -> RemovedSamples:
        """Read what `write` wrote, to merge it with others.

        Raises
        ------
        ValueError
            A line is not such a record; names file and line.
        """
        samples = cls(count, most_bytes)
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = json.loads(line)
                    one = Removed(*(record[name] for name in ("key", "cause", "source", "value", "text")))
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"{path}:{number}: no record of a removed document: {error!r}") from error
                samples._put([one._replace(value=json.dumps(one.value), text=cut(one.text, most_bytes))])
        return samples

    def _put(self, documents: Iterable[Removed]) -> None:
        for one in documents:
            kept = self._kept.setdefault(one.cause, set())
            kept.add(one)
            if len(kept) > self.count:
                kept.remove(max(kept))
            if len(kept) == self.count:
                self._largest[one.cause] = max(kept).key


def cut(text: str, most_bytes: int) -> str:
    """Beginning of a text of at most as many bytes of UTF-8, cut between two characters."""
    raw = text[:most_bytes].encode("utf-8", "surrogatepass")
    if len(raw) <= most_bytes:
        return text[:most_bytes]
    end = most_bytes
    while raw[end] & 0xC0 == 0x80:  # inside a character
        end -= 1
    return raw[:end].decode("utf-8", "surrogatepass")
