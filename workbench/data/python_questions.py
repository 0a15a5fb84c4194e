"""Questions about Python's standard library, answered from its own docstrings: conversations for studies on a laptop.

The answers are real text, written by people: first sentences of docstrings, and names from signatures. The questions
are made by a few fixed patterns. They teach a form (to answer, briefly, and to stop) and hardly a skill; no one has
judged the answers. They are the standard library's alone, so they change with Python's version and with nothing else.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from workbench.data.python_texts import read_source, standard_library

_FEWEST_WORDS, _MOST_CHARACTERS = 4, 300
"""Of a first sentence that can stand as an answer."""
_NAMES_AN_ANSWER = 8
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`'\"(])")
_ABBREVIATION = re.compile(r"\b(e\.?g|i\.?e|etc|vs|cf|resp|Dr|No)\.$", re.IGNORECASE)
_MARKUP = re.compile(r":[a-z]+:`~?([^`]*)`|``([^`]*)``")
_NOT_PROSE = re.compile(r">>>|^[-=*]{3,}|\\$|^\S+\(.*\)( ->.*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Definition:
    """A public function, class, method or property."""

    module: str
    """Name of its module, such as `os.path`."""
    name: str
    """Name inside the module, such as `Path.exists`."""
    kind: str
    """`function`, `class`, `method` or `property`."""
    summary: str
    """First sentence of its docstring; empty where it cannot stand as an answer."""
    arguments: tuple[str, ...]
    """Names of its arguments without `self` and `cls`; of a class none."""

    @property
    def full_name(self) -> str:
        """Name with the module's."""
        return f"{self.module}.{self.name}"


def write_questions(path: Path) -> int:
    """Write all conversations as jsonl, `{"messages": [...]}` a line, in a fixed order, and give their number.

    Parameters
    ----------
    path
        The file; replaced where it exists. It can be read with the default `ChatDataConfig.fields`.
    """
    lines = [json.dumps({"messages": messages}, ensure_ascii=False) for messages in make_conversations()]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)


def make_conversations() -> Iterator[list[dict[str, str]]]:
    """Yield conversations of one or two questions, each a list of {role, content}."""
    definitions = list_definitions()
    homes: dict[str, set[str]] = defaultdict(set)
    for definition in definitions:
        homes[definition.name].add(definition.module)
    for definition in definitions:
        turns = _what_it_does(definition) + _what_it_takes(definition)
        if turns:
            yield _conversation(turns)
        if definition.kind in ("function", "class") and len(definition.name) > 3 and len(homes[definition.name]) == 1:
            yield _conversation([_where_it_is(definition)])


def list_definitions() -> tuple[Definition, ...]:
    """Public definitions of the standard library's public modules, sorted by name, each once."""
    return _definitions_of(tuple(standard_library()))


@cache  # every point of a study names its conversations by them
def _definitions_of(modules: tuple[tuple[str, Path], ...]) -> tuple[Definition, ...]:
    found: dict[str, Definition] = {}
    for name, path in modules:
        module = _module_name(name)
        if module is not None:
            for definition in _definitions(module, path):
                found.setdefault(definition.full_name, definition)
    return tuple(found[name] for name in sorted(found))


def first_sentence(docstring: str) -> str:
    """First sentence of a docstring on one line, without markup; empty where it is no short sentence of prose."""
    paragraph = inspect.cleandoc(docstring).strip().partition("\n\n")[0]
    if _NOT_PROSE.search(paragraph):
        return ""
    text = _MARKUP.sub(lambda found: f"`{found[1] or found[2]}`", " ".join(paragraph.split()))
    sentence = ""
    for part in _SENTENCE_END.split(text):
        sentence = f"{sentence} {part}".strip()
        if not _ABBREVIATION.search(sentence):
            break
    wanted = len(sentence.split()) >= _FEWEST_WORDS and len(sentence) <= _MOST_CHARACTERS
    if not wanted or not sentence[0].isalpha() or sentence[-1] in ":,;(":
        return ""
    return sentence if sentence[-1] in ".!?" else f"{sentence}."


def _module_name(relative: str) -> str | None:
    """Name of a file's module; None where it is no public one."""
    if not relative.endswith(".py"):
        return None
    parts = relative.removesuffix(".py").removesuffix("/__init__").split("/")
    return ".".join(parts) if all(part.isidentifier() and not part.startswith("_") for part in parts) else None


def _definitions(module: str, path: Path) -> Iterator[Definition]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes
            tree = ast.parse(read_source(path))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _definition(module, "", node, "function")
        elif isinstance(node, ast.ClassDef):
            yield from _definition(module, "", node, "class")
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                    yield from _definition(module, f"{node.name}.", inner, _kind_of_method(inner))


def _definition(
    module: str, before: str, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, kind: str
) -> Iterator[Definition]:
    docstring = ast.get_docstring(node)
    if docstring is not None and not node.name.startswith("_"):
        arguments = () if isinstance(node, ast.ClassDef) else _argument_names(node.args)
        yield Definition(module, before + node.name, kind, first_sentence(docstring), arguments)


def _kind_of_method(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    names = {getattr(decorator, "id", getattr(decorator, "attr", "")) for decorator in node.decorator_list}
    return "property" if names & {"property", "cached_property", "setter"} else "method"


def _argument_names(arguments: ast.arguments) -> tuple[str, ...]:
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return tuple(a.arg for a in listed if a.arg not in ("self", "cls") and not a.arg.startswith("_"))


def _what_it_does(definition: Definition) -> list[tuple[str, str]]:
    if not definition.summary:
        return []
    name = definition.full_name
    is_a_thing = definition.kind in ("class", "property")
    return [(f"What is `{name}`?" if is_a_thing else f"What does `{name}` do?", definition.summary)]


def _what_it_takes(definition: Definition) -> list[tuple[str, str]]:
    names = [f"`{name}`" for name in definition.arguments]
    if not 0 < len(names) <= _NAMES_AN_ANSWER:
        return []
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    plural = "argument" if len(names) == 1 else "arguments"
    return [(f"Which arguments does `{definition.full_name}` take?", f"It takes the {plural} {listed}.")]


def _where_it_is(definition: Definition) -> tuple[str, str]:
    question = f"Which module of Python's standard library defines `{definition.name}`?"
    return question, f"The {definition.kind} `{definition.name}` is defined in the module `{definition.module}`."


def _conversation(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": content}
        for question, answer in turns
        for role, content in (("user", question), ("assistant", answer))
    ]
