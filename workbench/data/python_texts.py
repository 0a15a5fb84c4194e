"""Real text that is on every machine after set-up: Python's standard library and the locked packages.

*Prose* is docstrings and documentation files (`.rst`, `.md`, `.txt`, package descriptions); *code* is
Python source without docstrings and without its leading comment block. Only distributions named in
`requirements.lock` count, so that whatever else is installed does not change the data.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import importlib.metadata
import inspect
import os
import platform
import re
import sysconfig
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import workbench
from workbench.data import counts
from workbench.data.counts import Drop, no_drop

# Named filters on paths. Tests are left out because much of their bulk is tables of expected numbers;
# the rest is no prose: licences, lists of names, lists of packages.
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "licenses", ".."}
SKIPPED_DOCUMENTS = re.compile(
    r"(licen[cs]e|copying|notice|authors|contributors|thanks|third.?party|requirements|cmakelists"
    r"|sources\.txt|top_level|entry_points|vocab|words)",
    re.IGNORECASE,
)
DOCUMENT_SUFFIXES = (".rst", ".md", ".txt")
HEADER_SUFFIXES = (".h", ".hh", ".hpp", ".hxx", ".cuh")
RECORDED_SUFFIXES = (".py", "METADATA", *DOCUMENT_SUFFIXES, *HEADER_SUFFIXES)
GENERATED = re.compile(r"(auto-?(matically )?generated|generated (by|from)|do not edit)", re.IGNORECASE)

_LETTERS = bytes(range(65, 91)) + bytes(range(97, 123))
_DIGITS = b"0123456789"


def find_lock() -> Path:
    """Path of the project's `requirements.lock`.

    Raises
    ------
    ValueError
        It is not there: the project was not installed from its own folder.
    """
    path = Path(workbench.__file__).resolve().parents[1] / "requirements.lock"
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: data sources of the kinds python_* are made of the packages it "
            "names; install the project in editable form from its own folder"
        )
    return path


def list_distributions(lock: Path | None = None) -> dict[str, tuple[str, importlib.metadata.Distribution]]:
    """(version, distribution) of the installed packages that the lock file names, by normalised name, sorted."""
    text = (lock or find_lock()).read_text(encoding="utf-8")
    locked = {_normalise(match) for match in re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*)\s*==", text, re.MULTILINE)}
    found: dict[str, tuple[str, importlib.metadata.Distribution]] = {}
    for distribution in importlib.metadata.distributions():
        head = (distribution.read_text("METADATA") or "").partition("\n\n")[0]  # parsing all of it takes a second
        fields = dict(re.findall(r"^(Name|Version): *(.+)$", head, re.MULTILINE))
        name = _normalise(fields.get("Name", ""))
        if name in locked:
            found.setdefault(name, (fields.get("Version", ""), distribution))
    return dict(sorted(found.items()))


@cache
def describe_corpus(*packages: str) -> list[list[str]]:
    """Python's version, the standard library's files with their hashes, and the packages: what it is made of.

    Of `packages` alone, where some are named, and then without the standard library.
    """
    if packages:
        return [["python", platform.python_version()], *describe_packages(*packages)]
    library = [[name, hashlib.sha256(path.read_bytes()).hexdigest()] for name, path in standard_library()]
    return [["python", platform.python_version()], *library, *describe_packages()]


@cache
def describe_packages(*packages: str) -> list[list[str]]:
    """Name, version, and hash of the recorded texts of every locked package that is installed, or of those named.

    The version alone is not enough: builds of one version for different machines hold different files. That a file
    still is what was recorded is checked when it is read, which takes less time than hashing all of them here.
    """
    return [
        [name, version, _hash_record(distribution)]
        for name, (version, distribution) in _select_distributions(packages).items()
    ]


def _select_distributions(packages: Iterable[str]) -> dict[str, tuple[str, importlib.metadata.Distribution]]:
    """As `list_distributions`, but of `packages` alone, where some are named.

    Raises
    ------
    ValueError
        One of them is not in the lock file, or not installed.
    """
    found = list_distributions()
    wanted = {_normalise(name): name for name in packages}
    for normal, name in wanted.items():
        if normal not in found:
            raise ValueError(
                f"source packages: {name!r} is no installed package of {find_lock().name}: name one that is"
            )
    return {name: facts for name, facts in found.items() if not wanted or name in wanted}


def _hash_record(distribution: importlib.metadata.Distribution) -> str:
    # Not every line: scripts hold the environment's path, and RECORD lists them as `../../../bin/...`.
    lines = (distribution.read_text("RECORD") or "").split("\n")
    texts = [x for x in lines if x.partition(",")[0].endswith(RECORDED_SUFFIXES) and not x.startswith("..")]
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:16]


def list_files(*packages: str) -> list[tuple[str, str]]:
    """(SHA-256 of the content, path) of every text of the corpus, in the order of the hash, each content once.

    Hashes of packages' files are those their installer recorded. Where `packages` are named, of these alone.
    """
    library = {} if packages else {path: "" for _, path in standard_library()}
    return order_by_content(library | recorded_files(_is_text, packages))


def recorded_files(accept: Callable[[str], bool], packages: Iterable[str] = ()) -> dict[Path, str]:
    """SHA-256 (hexadecimal) of the packages' files whose relative name `accept` takes, as their installer wrote it.

    Raises
    ------
    ValueError
        One of `packages` is not in the lock file, or not installed; where none is named, all are read.
    """
    files: dict[Path, str] = {}
    for _, distribution in _select_distributions(packages).values():
        root = Path(str(distribution.locate_file("")))
        for line in filter(None, (distribution.read_text("RECORD") or "").split("\n")):
            name, recorded, _ = line.rsplit(",", 2)
            if accept(name) and recorded.startswith("sha256="):
                digest = recorded.removeprefix("sha256=")
                files[root / name.strip('"')] = base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex()
    return files


def order_by_content(files: dict[Path, str]) -> list[tuple[str, str]]:
    """(SHA-256, path) of the files that are there, in the order of the hash, each content once; "" is computed."""
    by_content: dict[str, str] = {}
    for path in sorted(files):
        if path.is_file():
            digest = files[path] or hashlib.sha256(path.read_bytes()).hexdigest()
            by_content.setdefault(digest, str(path))
    return sorted(by_content.items())


def _normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_text(name: str) -> bool:
    """Whether a file's name (relative, with slashes) passes the filters on paths."""
    *folders, last = name.split("/")
    if SKIPPED_FOLDERS.intersection(folders):
        return False
    if folders and folders[-1].endswith(".dist-info"):
        return last == "METADATA"
    return last.endswith(".py") or (last.endswith(DOCUMENT_SUFFIXES) and not SKIPPED_DOCUMENTS.search(last))


def standard_library() -> Iterator[tuple[str, Path]]:
    """Yield relative name and path of the standard library's texts, without its tests, in a fixed order."""
    root = sysconfig.get_paths()["stdlib"]
    for folder, inside, names in os.walk(root):
        inside[:] = sorted(set(inside) - SKIPPED_FOLDERS)
        for name in sorted(names):
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if _is_text(relative) and path.is_file():
                yield relative, path


# --------------------------------------------------------------------------- texts of one file


def read_source(path: Path, digest: str | None = None) -> str:
    """Text of a file with every line ending as a newline, without a byte order mark.

    Raises
    ------
    UnicodeDecodeError
        It is not UTF-8.
    OSError
        It cannot be read.
    ValueError
        Its SHA-256 is not `digest`: the data would not be what their fingerprint says.
    """
    raw = path.read_bytes()
    if digest is not None and hashlib.sha256(raw).hexdigest() != digest:
        raise ValueError(f"{path} was changed since its package was installed: install the package again")
    return raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def read_texts(
    path: Path, prose: bool = True, code: bool = True, digest: str | None = None, drop: Drop = no_drop
) -> tuple[list[str], list[str]]:
    """Prose documents and code documents (at most one) of one file; `drop` is told of those filtered out.

    Raises
    ------
    ValueError
        The file's SHA-256 is not `digest`.
    """
    wanted = [kind for kind, is_wanted in (("prose", prose), ("code", code and path.suffix == ".py")) if is_wanted]

    def drop_file(cause: str) -> tuple[list[str], list[str]]:
        for kind in wanted:
            drop(kind, cause)
        return [], []

    try:
        text = read_source(path, digest)
    except UnicodeDecodeError:
        return drop_file(counts.NOT_UTF8)
    except OSError:
        return drop_file(counts.UNREADABLE)
    if path.suffix != ".py":
        body = text.partition("\n\n")[2] if path.name == "METADATA" else text
        return [t.strip() for t in _keep([body], "prose", drop, file=True)] if prose else [], []
    if GENERATED.search(text, 0, 2000):
        return drop_file(counts.GENERATED)
    if not code and '"""' not in text and "'''" not in text:
        return [], []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's sources
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return drop_file(counts.NOT_PYTHON)
    docstrings = _keep(extract_docstrings(tree), "prose", drop) if prose else []
    source = cut_docstrings(text, tree) if code and is_code(text) else text
    return docstrings, _keep([source], "code", drop) if code else []


def _keep(texts: list[str], kind: str, drop: Drop, file: bool = False) -> list[str]:
    """Texts that read as prose or code; `drop` is told why the others do not."""
    kept = []
    for text in texts:
        cause = _why_dropped(text, kind, file)
        if cause is None:
            kept.append(text)
        else:
            drop(kind, cause)
    return kept


def _why_dropped(text: str, kind: str, file: bool) -> str | None:
    if not text.strip():
        return counts.EMPTY
    try:
        text.encode()
    except UnicodeEncodeError:  # a docstring may hold the escape of half a character
        return counts.NOT_UTF8
    if kind == "prose":
        return None if is_prose(text, file) else counts.NOT_PROSE
    return None if is_code(text) else counts.NOT_CODE


def is_prose(text: str, file: bool = False) -> bool:
    """Whether text reads as documentation: mostly letters, few digits, and (files) words in lines."""
    raw = text.encode()
    if not raw.strip():
        return False
    letters, digits = _share(raw, _LETTERS), _share(raw, _DIGITS)
    lines = [line for line in text.split("\n") if line.strip()]
    return letters > 0.5 and digits < 0.1 and (not file or len(text.split()) >= 4 * len(lines))


def is_code(text: str) -> bool:
    """Whether source reads as written by people: no tables of numbers, no packed lines, no repeated pattern."""
    raw = text.encode()
    if not raw.strip():
        return False
    lines = raw.split(b"\n")
    packed = max(map(len, lines)) > 1000 or len(raw) > 100 * len(lines)
    if packed or _share(raw, _DIGITS) > 0.15 or _share(raw, _LETTERS) < 0.35:
        return False
    # chardet's language models (tables of 100-360 kB) compress to 0.04 of their size, sources to 0.1 and more.
    return len(raw) < 10_000 or len(zlib.compress(raw, 1)) > 0.08 * len(raw)


def _share(raw: bytes, of: bytes) -> float:
    return 1 - len(raw.translate(None, of)) / len(raw)


def extract_docstrings(tree: ast.Module) -> list[str]:
    """Docstrings of the module, its classes and functions, in order, indentation cleaned."""
    found = []
    for owner, block in _blocks(tree):
        first = block[0] if block else None
        if isinstance(owner, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and _is_string(first):
            found.append(inspect.cleandoc(first.value.value).strip())  # type: ignore[union-attr]
    return found


def cut_docstrings(text: str, tree: ast.Module | None = None) -> str:
    """Cut every bare string statement and the leading comment block out of source code.

    What is left is valid Python: a block that held nothing else gets `...`.
    """
    lines = [line.encode() + b"\n" for line in text.split("\n")]
    cuts = []
    for _, block in _blocks(tree or ast.parse(text)):
        strings = [statement for statement in block if _is_string(statement)]
        keep_one = len(strings) == len(block)
        for i, statement in enumerate(strings):
            cuts.append((statement, b"..." if keep_one and i == 0 else b""))
    for statement, substitute in sorted(cuts, key=lambda cut: -cut[0].lineno):
        first, last = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
        before, after = lines[first][: statement.col_offset], lines[last][statement.end_col_offset :]
        alone = not before.strip() and not after.strip()
        if not alone:
            substitute = b"..."
        if not substitute and last + 1 < len(lines) and not lines[last + 1].strip():
            last += 1  # the blank line that set the docstring off
        lines[first : last + 1] = [before + substitute + after] if substitute else []
    return _cut_leading_comments(b"".join(lines).decode())


def _cut_leading_comments(text: str) -> str:
    lines = text.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")), len(lines))
    return "\n".join(lines[first:]).strip("\n")


def _blocks(node: ast.AST) -> Iterator[tuple[ast.AST, list[ast.stmt]]]:
    """Every block of statements with its owner, outermost first, without a look at expressions."""
    for name in ("body", "handlers", "orelse", "finalbody", "cases"):
        block = getattr(node, name, None)
        if isinstance(block, list):
            if block and isinstance(block[0], ast.stmt):
                yield node, block
            for child in block:
                yield from _blocks(child)


def _is_string(statement: ast.stmt | None) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
