"""Text files are UTF-8 whatever the locale says: no call leaves their encoding to the machine."""

import ast

import pytest

from workbench.config.compose import PROJECT_ROOT

FILES = [
    path for folder in ("workbench", "analysis", "hydra_plugins") for path in (PROJECT_ROOT / folder).rglob("*.py")
]
TEXT = ("open", "read_text", "write_text")


def left_to_the_locale(source):
    """Lines that open a file as text without saying how it is encoded."""
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        strings = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
        modes = [value for value in strings if isinstance(value, str) and set(value) <= set("rwxabt+")]
        owner = getattr(getattr(call.func, "value", None), "id", "")
        if (
            name not in TEXT
            or owner in ("os", "tokenize", "webbrowser", "distribution")
            or any("b" in mode for mode in modes)
        ):
            continue
        if "encoding" not in {keyword.arg for keyword in call.keywords}:
            yield call.lineno


def test_it_sees_them():
    assert list(
        left_to_the_locale("path.open()\nopen('a', 'w')\npath.read_text()\npath.open('rb')\nos.open(p, f)")
    ) == [
        1,
        2,
        3,
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_encodings_are_given(path):
    assert list(left_to_the_locale(path.read_text(encoding="utf-8"))) == []
