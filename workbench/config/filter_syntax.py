"""Syntax of the expressions that filter documents by their fields, such as `lang == "en" and max_stars_count >= 2`.

expression   one or more terms joined by `or`
term         one or more factors joined by `and`
factor       `not` factor, `(` expression `)`, or a condition
condition    value `==` value, also `!=` `<` `<=` `>` `>=`
             value `in` [literal, ...], value `not in` [literal, ...]
             field `contains` literal, field `matches` "regular expression"
             `has(` field `)`, or a field that is itself true or false
value        field, `len(` field `)`, or literal
field        names joined by dots; a name with other characters than letters, digits and _ stands in backquotes
literal      number, "text" or 'text' (with a backslash before a quote or a backslash), true, false, null
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

Scalar = str | int | float | bool | None
ORDERS = ("==", "!=", "<=", ">=", "<", ">")
_DEEPEST = 50
"""Nested parentheses and `not`."""


@dataclass(frozen=True)
class Field:
    """A field of the record, by the keys on the way to it."""

    path: tuple[str, ...]

    @property
    def name(self) -> str:
        """The path as it is written, joined by dots."""
        return ".".join(self.path)


@dataclass(frozen=True)
class Length:
    """`len(field)`: characters of a text, or items of a list."""

    field: Field


@dataclass(frozen=True)
class Literal:
    """A number, text, true, false or null."""

    value: Scalar


Value = Field | Length | Literal


@dataclass(frozen=True)
class Comparison:
    """`left operator right`; one of them at least is of the record."""

    left: Value
    operator: str
    right: Value


@dataclass(frozen=True)
class Member:
    """`value in [...]`."""

    value: Field | Length
    among: tuple[Scalar, ...]


@dataclass(frozen=True)
class Contains:
    """`field contains literal`: a part of a text, or an item of a list."""

    field: Field
    part: Scalar


@dataclass(frozen=True)
class Matches:
    """`field matches "regular expression"`: Python's, found anywhere in the text."""

    field: Field
    pattern: str


@dataclass(frozen=True)
class Has:
    """`has(field)`: it is there and not null."""

    field: Field


@dataclass(frozen=True)
class Flag:
    """A field that is itself true or false."""

    field: Field


@dataclass(frozen=True)
class Not:
    """`not condition`."""

    condition: Node


@dataclass(frozen=True)
class Joined:
    """Conditions joined by `and` or `or`."""

    word: str
    conditions: tuple[Node, ...]


Node = Comparison | Member | Contains | Matches | Has | Flag | Not | Joined


def kind_of(value: object) -> str:
    """Name of a value's type in this language: number, text, boolean, null, list, object, or Python's name of any other."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    names: dict[type, str] = {str: "text", list: "list", tuple: "list", dict: "object"}
    return names.get(type(value), type(value).__name__)


def parse_filter(text: str) -> Node:
    """Read an expression.

    Raises
    ------
    ValueError
        It does not follow the syntax, or compares what cannot be compared; one line that names the place.
    """
    return _Parser(text).parse()


_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[+-]?(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))
    |(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<name>(?:[^\W\d]\w*|`[^`]+`)(?:\.(?:\w+|`[^`]+`))*)
    |(?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)
    |(?P<end>$))""",
    re.VERBOSE | re.DOTALL,
)
_LITERALS: dict[str, Scalar] = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_WORDS = ("and", "or", "not", "in", "contains", "matches", "len", "has")
_HINTS = {"=": "; write ==", "&": "; write and", "|": "; write or", "!": "; write not", "<>": "; write !="}


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._split()
        self._next = 0
        self._depth = 0

    def parse(self) -> Node:
        node = self._joined("or")
        if self._token.kind != "end":
            self._fail(f"{self._token.text!r} does not belong here; join conditions with and, or")
        return node

    def _split(self) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        while not tokens or tokens[-1].kind != "end":
            found = _TOKEN.match(self._text, at)
            if found is None:
                at = len(self._text) - len(self._text[at:].lstrip())
                self._fail_at(at, self._why_no_token(self._text[at]))
            kind = str(found.lastgroup)
            word = found[kind]
            kind = "word" if kind == "name" and word in _WORDS else kind
            tokens.append(_Token(kind, word, found.start(found.lastgroup or 0)))
            at = found.end()
        return tokens

    def _why_no_token(self, first: str) -> str:
        if first in "\"'`":
            return f"the quote {first} is not closed"
        if first.isdigit() or first in "+-.":
            return "this is not a number; a name that begins with a digit stands in backquotes"
        return f"{first!r} is no sign of this language{_HINTS.get(first, '')}"

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> bool:
        """Step over the next token if it is one of these signs or words."""
        found = self._token.kind in ("sign", "word") and self._token.text in texts
        self._next += found
        return found

    def _need(self, sign: str, why: str) -> None:
        if not self._take(sign):
            self._fail(f"{sign!r} is missing {why}")

    def _fail(self, why: str, at: int | None = None) -> NoReturn:
        self._fail_at(self._token.at if at is None else at, why)

    def _fail_at(self, at: int, why: str) -> NoReturn:
        place = f"at {self._text[at : at + 20]!r}, character {at + 1}" if self._text[at:].strip() else "at its end"
        raise ValueError(f"filter {self._text!r}, {place}: {why}")

    def _joined(self, word: str) -> Node:
        part = (lambda: self._joined("and")) if word == "or" else self._factor
        conditions = [part()]
        while self._take(word):
            conditions.append(part())
        return Joined(word, tuple(conditions)) if len(conditions) > 1 else conditions[0]

    def _factor(self) -> Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._fail(f"more than {_DEEPEST} parentheses and not's in each other")
        if self._take("not"):
            node: Node = Not(self._factor())
        elif self._take("("):
            node = self._joined("or")
            self._need(")", "after the condition in parentheses")
        elif self._take("has"):
            node = Has(self._field_in_parentheses("has"))
        else:
            node = self._condition()
        self._depth -= 1
        return node

    def _condition(self) -> Node:
        at = self._token.at
        left = self._value()
        word = self._token.text
        if self._take(*ORDERS):
            node: Node = self._comparison(left, word, at)
            if self._token.text in ORDERS and self._token.kind == "sign":
                self._fail("comparisons are joined with and: write 1 < x and x < 3")
            return node
        if self._take("in"):
            return self._member(left, at)
        if self._take("not"):
            self._need("in", "after not; a condition begins with not, as in not lang == 'en'")
            return Not(self._member(left, at))
        if self._take("contains", "matches"):
            return self._search(left, word, at)
        if not isinstance(left, Field):
            self._fail("a comparison is missing, as in len(text) > 100")
        return Flag(left)

    def _value(self) -> Value:
        token = self._token
        if self._take("len"):
            return Length(self._field_in_parentheses("len"))
        if token.kind == "name" and token.text not in _LITERALS:
            return self._field()
        return Literal(self._literal("a field or a value"))

    def _field(self) -> Field:
        token = self._token
        if token.kind != "name" or token.text in _LITERALS:
            self._fail("a field's name is missing")
        self._next += 1
        return Field(tuple(part.strip("`") for part in re.findall(r"`[^`]+`|\w+", token.text)))

    def _field_in_parentheses(self, word: str) -> Field:
        self._need("(", f"after {word}")
        field = self._field()
        self._need(")", f"after {word}({field.name}")
        return field

    def _literal(self, what: str) -> Scalar:
        token = self._token
        if token.kind == "number":
            self._next += 1
            whole = re.fullmatch(r"[+-]?[0-9_]+", token.text)
            return int(token.text) if whole else float(token.text)
        if token.kind == "text":
            self._next += 1
            return re.sub(r"\\([\"'\\])", r"\1", token.text[1:-1])
        if token.kind != "name" or token.text not in _LITERALS:
            self._fail(f"{what} is missing{'' if token.kind == 'end' else '; text stands in quotes'}")
        self._next += 1
        return _LITERALS[token.text]

    def _comparison(self, left: Value, operator: str, at: int) -> Comparison:
        right = self._value()
        if isinstance(left, Literal) and isinstance(right, Literal):
            self._fail("two values are compared; one of them must be a field (its name without quotes)", at)
        for value, other in ((left, right), (right, left)):
            if not isinstance(value, Literal):
                continue
            kind = kind_of(value.value)
            if kind in ("null", "boolean") and operator not in ("==", "!="):
                self._fail(f"{kind} has no order; only == and != compare with it", at)
            if isinstance(other, Length) and kind != "number":
                self._fail(f"len({other.field.name}) is a number and cannot be compared with {kind}", at)
        return Comparison(left, operator, right)

    def _member(self, value: Value, at: int) -> Member:
        if isinstance(value, Literal):
            self._fail("before in stands a field; for an item of a list write tags contains 'x'", at)
        self._need("[", "after in, as in lang in ['en', 'de']")
        among = [self._literal("a value")]
        while self._take(","):
            among.append(self._literal("a value"))
        self._need("]", "after the values")
        kinds = sorted({kind_of(item) for item in among})
        if len(kinds) > 1 or "null" in kinds:
            self._fail(f"the values after in must be of one type, and not null; here are {' and '.join(kinds)}", at)
        if isinstance(value, Length) and kinds != ["number"]:
            self._fail(f"len({value.field.name}) is a number and cannot be compared with {kinds[0]}", at)
        return Member(value, tuple(among))

    def _search(self, value: Value, word: str, at: int) -> Contains | Matches:
        if not isinstance(value, Field):
            self._fail(f"before {word} stands a field", at)
        place = self._token.at
        part = self._literal("a value")
        if word == "contains":
            if part is None:
                self._fail("nothing contains null", place)
            return Contains(value, part)
        if not isinstance(part, str):
            self._fail("after matches stands a regular expression in quotes", place)
        try:
            re.compile(part)
        except re.error as error:
            self._fail(f"not a regular expression: {error}", place)
        return Matches(value, part)
