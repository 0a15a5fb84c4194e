"""Hydra's and OmegaConf's errors in one line, with what to type instead.

Hydra advises to add what it does not know (`use +token=1000`), which helps nobody here: every setting is a field of the
schema. So the nearest settings are named in its place.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from functools import cache
from pathlib import Path

from workbench.config.schema import Config

_ADVICE = re.compile(r"\.? ?To append to your (?:config|default list) use \S+")
_UNKNOWN = re.compile(r"Could not override '([^']+)'(?:\. No match in the defaults list)?")
_KEY = re.compile(r"Key '([^']+)' (?:is not in struct|not in '\w+')")
_MISSING = re.compile(r"(?:In '([^']+)': )?Could not find '([\w/-]+?)/([^'/]+)' Available options in '[^']+': (.*)")
_BARE_GROUP = re.compile(r"(?:In '([^']+)': )?Could not find 'experiments/([\w-]+)/([^']+)'")
_COMPOSED = re.compile(
    r"(In '[^']+'): ConfigKeyError raised while composing config: Key '[^']+' not in '\w+' full_key: (\S+)"
)
_NO_CHOICE = re.compile(r"\w+ is not a subclass of (\w+)Config\. value: (\S+)")
_SEARCHED = re.compile(r" ?Config search path: .*")
_TYPES = re.compile(r" full_key: \S+( reference_type=.*?)?( object_type=\S+)?$")
_GRAMMAR = re.compile(r"See https://hydra\.cc\S+ for details")
_QUOTE = (
    "quote a value with spaces, brackets, ~ or commas twice, for the shell and for Hydra, as in "
    "'data.sources.text.path=\"/data/my file (1).jsonl\"'"
)
_CLOSE = 0.6
_ELSEWHERE = {
    "lr": "optimizer.learning_rate",
    "batch_size": "recipe.batch_sequences",
    "hidden_size": "model.width",
    "n_layers": "model.num_layers",
    "n_heads": "model.num_heads",
    "steps": "tokens",
    "max_steps": "tokens",
    "epochs": "data.sources.<name>.max_epochs",
}
"""What other projects call our settings."""


def one_line(error: BaseException) -> str:
    """Join the messages of an error and its causes, the root cause last, with advice that fits this project."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = " ".join(line.strip() for line in str(cause).splitlines() if line.strip())
        if text and text not in parts:
            parts.append(text)
        cause = cause.__cause__
    if parts and (bare := _BARE_GROUP.match(parts[0])) and "Available options" not in parts[0]:
        return f"in a study's defaults a choice of {bare[2]} is `- override /{bare[2]}: {bare[3]}`"
    missing = _MISSING.match(_SEARCHED.sub("", parts[0])) if parts else None
    if missing is not None:
        return _not_found(*missing.groups())
    if parts and "Key 'experiments' not in 'Config'" in parts[0]:
        return f"{parts[0].partition(':')[0]}: its first line must be `# @package _global_`"
    found = [_unknown(text) for text in parts]
    if any("Could not override 'experiments/" in part for part in parts):
        found.append("in a study's file a group needs a leading slash, as in `override /hydra/launcher`")
    elif any("@experiments." in part for part in parts):
        found.append("the first line of a study's file must be `# @package _global_`")
    return "; ".join(dict.fromkeys(text for text in found if text))


def _unknown(text: str) -> str:
    """Replace Hydra's advice on a key by the settings that are nearest to it."""
    if _GRAMMAR.search(text):
        return f"{_GRAMMAR.sub('', text).strip()}: {_QUOTE}"
    key = _UNKNOWN.search(text)
    if key is not None and key[1] in (*setting_names(), *config_groups()):
        return text
    composed = _COMPOSED.match(text)
    if composed is not None:
        return f"{composed[1]}: there is no setting '{composed[2]}'{_nearest(composed[2])}"
    choice = _NO_CHOICE.search(text)
    if choice is not None and choice[1].lower() in config_groups():
        group = choice[1].lower()
        return f"{group}: {choice[2]} is a choice of a file: `- override /{group}: {choice[2]}` in the study's defaults"
    text = _TYPES.sub("", text)
    if key is not None and "Did you mean" not in text:
        return _UNKNOWN.sub(f"there is no setting '{key[1]}'{_nearest(key[1])}", _ADVICE.sub("", text)).rstrip(". ")
    if _KEY.fullmatch(text):
        return ""  # the cause of the line before, and no more than it says
    return text


def _nearest(key: str) -> str:
    """Name the settings and groups that are nearest to a key."""
    if key.startswith("then."):
        return f" in its file: add what a stage's file leaves out by ++{key}=..., and a whole stage by ++{key.rpartition('.')[0]}.kind=KIND"
    names = [*setting_names(), *config_groups()]
    last = key.rpartition(".")[2]
    close = [_ELSEWHERE[last]] if last in _ELSEWHERE else difflib.get_close_matches(key, names, 3, _CLOSE)
    close += [name for name in names if difflib.SequenceMatcher(None, name.rpartition(".")[2], last).ratio() >= 0.75]
    close = list(dict.fromkeys(close))[:3]
    return f": did you mean {' or '.join(close)}?" if close else " (README.md says where all settings are)"


def _not_found(where: str | None, group: str, name: str, options: str) -> str:
    """Say that a group has no such file, and which it has."""
    choices = [option for option in options.split() if not option.startswith("base_")]
    close = difflib.get_close_matches(name, choices, 1, _CLOSE)
    guess = f"did you mean {close[0]}? There are " if close else "there are "
    place = "" if where in (None, "config") else f"{where}: "
    more = "; a study of your own is found with --experiments DIR, its folder" if group == "experiments" else ""
    return f"{place}no {group}={name}: {guess}{', '.join(choices)}{more}"


@cache
def setting_names() -> tuple[str, ...]:
    """Every setting by its dotted name; `<name>` stands for any key."""
    return tuple(_fields(Config, ""))


def _fields(kind: typing.Any, name: str) -> typing.Iterator[str]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(a for a in typing.get_args(kind) if a is not type(None))
    if name:
        yield name
    if typing.get_origin(kind) is dict:
        yield from _fields(typing.get_args(kind)[1], f"{name}.<name>")
    elif dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            yield from _fields(hints[field.name], f"{name}.{field.name}".lstrip("."))


@cache
def config_groups() -> tuple[str, ...]:
    """List the groups of `conf/` from which a file is chosen."""
    conf = Path(__file__).resolve().parents[2] / "conf"
    return tuple(sorted(path.name for path in conf.iterdir() if path.is_dir()))
