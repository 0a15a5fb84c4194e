"""Filter expressions are read as they are written, and a mistake is named in one line with its place."""

import pytest

from workbench.config.filter_syntax import (
    Comparison,
    Contains,
    Field,
    Flag,
    Has,
    Joined,
    Length,
    Literal,
    Matches,
    Member,
    Not,
    parse_filter,
)

A, B, C = Flag(Field(("a",))), Flag(Field(("b",))), Flag(Field(("c",)))


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("meta.set != 'GitHub'", Comparison(Field(("meta", "set")), "!=", Literal("GitHub"))),
        ("1_000 <= len(text)", Comparison(Literal(1000), "<=", Length(Field(("text",))))),
        ("x == -2.5e3", Comparison(Field(("x",)), "==", Literal(-2500.0))),
        ("x==null", Comparison(Field(("x",)), "==", Literal(None))),
        ("x == True", Comparison(Field(("x",)), "==", Literal(True))),
        ("a or b and not c", Joined("or", (A, Joined("and", (B, Not(C)))))),
        ("(a or b)\n  and c", Joined("and", (Joined("or", (A, B)), C))),
        ("not not a", Not(Not(A))),
        ("lang in ['en', \"de\"]", Member(Field(("lang",)), ("en", "de"))),
        ("lang not in ['en']", Not(Member(Field(("lang",)), ("en",)))),
        ("tags contains 3", Contains(Field(("tags",)), 3)),
        (r"url matches '^https?://\w+'", Matches(Field(("url",)), r"^https?://\w+")),
        ('url matches "a\\"b"', Matches(Field(("url",)), 'a"b')),
        ("has(meta.`content-type`.0)", Has(Field(("meta", "content-type", "0")))),
        ("`a.b` == 1", Comparison(Field(("a.b",)), "==", Literal(1))),
        ("größe > .5", Comparison(Field(("größe",)), ">", Literal(0.5))),
    ],
)
def test_expression(text, node):
    assert parse_filter(text) == node


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "filter '', at its end: a field or a value is missing"),
        ("a = 3", "filter 'a = 3', at '= 3', character 3: '=' is no sign of this language; write =="),
        ("a == 1 && b", "at '&& b', character 8: '&' is no sign of this language; write and"),
        ("!a", "at '!a', character 1: '!' is no sign of this language; write not"),
        ("a == 'x", "at \"'x\", character 6: the quote ' is not closed"),
        ("a == 3x", "at '3x', character 6: this is not a number"),
        ("a == 1 b", "at 'b', character 8: 'b' does not belong here; join conditions with and, or"),
        ("a ==", "at its end: a field or a value is missing"),
        ("a == (1)", "character 6: a field or a value is missing; text stands in quotes"),
        ("(a == 1", "at its end: ')' is missing after the condition in parentheses"),
        ("1 < x < 3", "at '< 3', character 7: comparisons are joined with and: write 1 < x and x < 3"),
        ("1 == 1", "character 1: two values are compared; one of them must be a field"),
        ("a < null", "character 1: null has no order; only == and != compare with it"),
        ("a >= true", "boolean has no order"),
        ("len(a) == 'x'", "len(a) is a number and cannot be compared with text"),
        ("len(a) == null", "len(a) is a number and cannot be compared with null"),
        ("len(a)", "a comparison is missing, as in len(text) > 100"),
        ("len a > 3", "'(' is missing after len"),
        ("has('a')", "a field's name is missing"),
        ("a in 'en'", "'[' is missing after in, as in lang in ['en', 'de']"),
        ("a in []", "a value is missing"),
        ("a in [1, 'x']", "of one type, and not null; here are number and text"),
        ("a in [null]", "of one type, and not null; here are null"),
        ("len(a) in ['x']", "len(a) is a number"),
        ("'x' in tags", "write tags contains 'x'"),
        ("a not b", "'in' is missing after not"),
        ("len(a) contains 3", "before contains stands a field"),
        ("a contains null", "nothing contains null"),
        ("a matches 3", "after matches stands a regular expression in quotes"),
        ("a matches '('", "character 11: not a regular expression: missing )"),
        ("(" * 60 + "a" + ")" * 60, "more than 50 parentheses and not's in each other"),
        ("not " * 60 + "a", "more than 50 parentheses and not's in each other"),
        ("and a", "a field or a value is missing"),
        ("__import__('os')", "'(' does not belong here"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(ValueError, match="filter") as error:
        parse_filter(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mistake_in_several_lines_is_named_in_one():
    with pytest.raises(ValueError, match=r"filter 'a\\n= 3'") as error:
        parse_filter("a\n= 3")
    assert "\n" not in str(error.value)
