"""A report as one HTML page that needs nothing else: figures, tables and fits, with the lineage of every mark."""

from __future__ import annotations

import dataclasses
import html
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.lineage import Mark, Source, marks_of
from analysis.report.assets import CSS, SCRIPT

_TEXT_CELL = 24
"""Cells longer than this are prose and may wrap."""


@dataclass(frozen=True)
class Drawn:
    """One figure of a report."""

    name: str
    """File name without its extension; unique in the report."""
    title: str
    """Heading."""
    caption: str
    """What it shows, for a reader who does not know the code."""
    figure: Figure
    """As a figure function gives it."""
    points: pd.DataFrame
    """Its plotted points."""
    section: str = "Figures"
    """Part of the page that shows it."""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    """Heading, from which its id is made."""
    blocks: Sequence[str]
    """HTML, as returned by the functions of this module."""


def build_page(title: str, lead: str, sections: Sequence[Section], drawn: Sequence[Drawn]) -> str:
    """Assemble a page.

    Parameters
    ----------
    title
        Heading.
    lead
        One paragraph under it.
    sections
        Parts in order; those without blocks are left out.
    drawn
        Every figure that a section shows, for the lineage of its marks.

    Returns
    -------
    str
        HTML with style, script, figures and lineage inside; it loads nothing.
    """
    there = [section for section in sections if section.blocks]
    links = "".join(f'<li><a href="#{_slug(part.title)}">{html.escape(part.title)}</a></li>' for part in there)
    body = "".join(
        f'<section><h2 id="{_slug(part.title)}">{html.escape(part.title)}</h2>{"".join(part.blocks)}</section>'
        for part in there
    )
    # A tag or a comment inside JSON would end or change the script element.
    data = json.dumps(_lineage(drawn)).replace("<", "\\u003c")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f'<header><h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>'
        f'<nav aria-label="Contents"><ul>{links}</ul></nav></header>\n<main>{body}</main>\n'
        '<aside id="lineage" role="dialog" aria-label="Lineage of a mark" hidden>'
        '<button aria-label="Close">&times;</button><div></div></aside>\n'
        f'<script type="application/json" id="lineage-data">{data}</script>\n<script>{SCRIPT}</script>\n'
        "</body>\n</html>\n"
    )


def figure_block(drawn: Drawn) -> str:
    """Render a figure with its caption; its marks open their lineage."""
    width, _ = drawn.figure.get_size_inches()
    # 62 pixels an inch keep letters of 9 points readable at 8 pixels.
    return (
        f'<figure id="{html.escape(drawn.name)}" style="--narrow: {width * 62:.0f}px; --full: {width * 110:.0f}px">'
        f"<h3>{html.escape(drawn.title)}</h3>"
        '<p class="swipe">Swipe the figure sideways; tap a mark for its lineage.</p>'
        f'<div class="wide">{inline_svg(drawn)}</div>'
        f"<figcaption>{html.escape(drawn.caption)} {len(set(drawn.points['mark']))} marks; {_leads_to(drawn)}"
        "</figcaption></figure>"
    )


def _leads_to(drawn: Drawn) -> str:
    """Say what a click on a mark shows."""
    if drawn.section != "Figures" and not any(isinstance(run, str) for run in drawn.points["run_id"]):
        return "click one for its data."
    return "click one for its run, config, commit, data, checkpoint and evaluation."


def inline_svg(drawn: Drawn) -> str:
    """Embed a figure's SVG in a page: unique ids, no fixed size, marks as links with their ids."""
    buffer = io.StringIO()
    with style.house_style():
        drawn.figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    name = re.sub(r"[^\w-]", "_", drawn.name)
    text = text.replace("<svg", f'<svg role="group" aria-label="{html.escape(drawn.title)}"', 1)
    text = re.sub(
        r'<a xlink:href="#(p\d+)" target="_blank">',
        rf'<a class="mark" data-figure="{html.escape(drawn.name)}" data-mark="\1" href="#{name}-\1" id="\1">',
        text,
    )
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', text)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)


def table_block(table: pd.DataFrame, title: str = "", note: str = "") -> str:
    """Render a table of texts and numbers; missing cells are empty. Words are left-aligned, numbers right-aligned."""
    cells: list[list[object]] = table.astype(object).to_numpy().tolist()
    words = [any(_is_word(row[place]) for row in cells) for place in range(len(table.columns))]
    looks = [" class=words" if word else "" for word in words]
    heads = "".join(
        f'<th scope="col"{look}>{html.escape(str(name))}</th>' for name, look in zip(table.columns, looks, strict=True)
    )
    rows = "".join(
        f"<tr>{''.join(_cell(value, word) for value, word in zip(row, words, strict=True))}</tr>" for row in cells
    )
    heading = f"<h3>{html.escape(title)}</h3>" if title else ""
    below = f'<p class="quiet">{html.escape(note)}</p>' if note else ""
    return (
        f'{heading}<div class="wide" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{below}"
    )


def list_block(lines: Sequence[str], title: str = "", *, flags: bool = False) -> str:
    """Render lines as a list, with warning signs if they are flags; empty if there are none."""
    if not lines:
        return ""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    heading = f"<h3>{html.escape(title)}</h3>" if title else ""
    return f"{heading}<ul{' class=flags' if flags else ''}>{items}</ul>"


def text_block(text: str, *, kind: str = "") -> str:
    """Render a paragraph."""
    return f"<p{f' class={kind}' if kind else ''}>{html.escape(text)}</p>"


def _is_word(value: object) -> bool:
    """Whether a cell is words, rather than a number with or without its error."""
    return isinstance(value, str) and value != "" and not re.match(r"[-+]?[\d.(]", value)


def _cell(value: object, word: bool) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "<td></td>"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    kinds = [name for name, is_so in (("text", len(text) > _TEXT_CELL), ("words", word)) if is_so]
    look = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<td{look}>{html.escape(text)}</td>"


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _lineage(drawn: Sequence[Drawn]) -> dict[str, object]:
    """Collect the marks by figure; sources are listed once, since many marks share them."""
    places: dict[Source, int] = {}

    def place(mark: Mark) -> dict[str, object]:
        indices = [places.setdefault(source, len(places)) for source in mark.sources]
        return {"panel": mark.panel, "role": mark.role, "x": mark.x, "y": mark.y, "sources": indices}

    figures = {one.name: {name: place(mark) for name, mark in marks_of(one.points).items()} for one in drawn}
    return {"figures": figures, "sources": [dataclasses.asdict(source) for source in places]}
