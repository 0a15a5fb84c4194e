"""The look of figures: colours, markers, axes and words; nothing here depends on a frame.

Sizes are ordered, so their colours are too: `viridis` without its light end, which colour-blind readers
and grey printers order alike; every size has its own marker besides.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import colors, ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis

from analysis.metrics import lower_is_better as lower_is_better

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
GREY = "#6b6b6b"
HELD_OUT = "#d55e00"
"""Vermillion of Okabe and Ito: marks what a fit has not seen."""
RC: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "figure.dpi": 100,
    "savefig.dpi": 180,
    "savefig.bbox": "tight",
    # Glyphs as paths in SVG, fonts embedded in PDF: a figure looks the same wherever it is opened.
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    # No random ids: the same points give the same file.
    "svg.hashsalt": "workbench",
}


CATEGORIES = ("#000000", "#004488", "#bb5566", "#ddaa33")
"""Paul Tol's high-contrast scheme: safe for colour-blind readers and evenly spaced in grey."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
"""Line styles that tell categories apart where colours do not."""


@contextmanager
def house_style() -> Generator[None]:
    """Draw in the project's style without changing the caller's settings."""
    with mpl.rc_context(RC):
        yield


def size_colors(count: int) -> list[str]:
    """Colours of `count` ordered sizes, dark to light, at equal steps of grey."""
    shades = [colors.to_hex(mpl.colormaps["viridis"](shade)) for shade in np.linspace(0.0, 0.82, 256)]
    greys = [grey_level(shade) for shade in shades]
    wanted = np.linspace(greys[0], greys[-1], count) if count > 1 else [greys[90]]
    return [shades[int(np.searchsorted(greys, grey - 1e-9))] for grey in wanted]


def category_looks(names: Sequence[str]) -> dict[str, tuple[str, str, Any]]:
    """Colour, marker and line style of each of a few unordered things; beyond four, colours of `size_colors`.

    References
    ----------
    Paul Tol 2021, "Colour Schemes", technical note SRON/EPS/TN/09-002, section 2.
    """
    shades = CATEGORIES if len(names) <= len(CATEGORIES) else size_colors(len(names))
    return {
        name: (shades[index], MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)])
        for index, name in enumerate(names)
    }


def grey_level(color: str) -> float:
    """Lightness of a colour on a grey printer: luma of ITU-R BT.601, from 0 (black) to 1 (white)."""
    red, green, blue = colors.to_rgb(color)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def count_label(count: float) -> str:
    """Write a count for a reader: 950, 500K, 1.05M, 2B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        # Rounded in the third digit before the unit is chosen: 999,999 is 1M and not 1e+03K.
        if count >= size * 0.9995:
            return f"{float(f'{count / size:.3g}'):g}{unit}"
    return f"{float(f'{count:.3g}'):g}"


def token_axis(axes: Axes, values: Sequence[float], label: str = "Tokens trained on") -> None:
    """Make x a log axis whose ticks read as counts.

    A few well-separated values become the ticks themselves (the budgets of a sweep); otherwise ticks are at
    1, 2 and 5 times powers of ten, or at powers of ten over more than three decades.
    """
    axes.set_xscale("log")
    low, high = min(values), max(values)
    axes.set_xlim(low / 1.18, high * 1.18)
    log_axis(axes.xaxis, values, counts=True)
    axes.set_xlabel(label)


def log_axis(axis: Axis, values: Sequence[float], *, counts: bool = False) -> None:
    """Give a log axis readable ticks: at the values if few, else at 1, 2 and 5 or at powers of ten.

    Parameters
    ----------
    axis
        `axes.xaxis` or `axes.yaxis`, whose scale is log.
    values
        What is drawn along it, above 0.
    counts
        Whether to write ticks as counts (500K, 2M); else as plain numbers, or powers of ten beyond four digits.
    """
    ratio = max(values) / min(values)
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if ratio < 4 else (1.0, 2.0, 5.0) if ratio < 1e3 else (1.0,)
    locator = ticker.LogLocator(base=10, subs=subs, numticks=50)
    axis.set_major_locator(ticker.FixedLocator(sorted(set(values))) if _are_ticks(values) else locator)
    axis.set_minor_locator(ticker.NullLocator())
    plain = _tick_text if counts else _number_text
    axis.set_major_formatter(ticker.FuncFormatter(plain))


def _are_ticks(values: Sequence[float]) -> bool:
    """Whether values are few and far apart enough to be the ticks themselves, as the budgets of a sweep."""
    distinct = np.array(sorted(set(values)))
    return len(distinct) <= 8 and bool((distinct[1:] / distinct[:-1] > 1.4).all())


def power_label(value: float) -> str:
    """Write a number in two digits and a power of ten, as 4·10^12 in TeX's way."""
    mantissa, exponent = f"{value:.1e}".split("e")
    power = f"10$^{{{int(exponent)}}}$"
    short = f"{float(mantissa):g}"
    return power if short == "1" else f"{short}·{power}"


def _number_text(value: float, _position: int | None = None) -> str:
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e4 else power_label(value)


def _tick_text(value: float, _position: int | None = None) -> str:
    return count_label(value)


COUNTS = ticker.FuncFormatter(_tick_text)
"""Writes ticks as counts: 500K, 2M, 1B."""


def metric_label(metric: str) -> str:
    """Describe a metric in words: `heldout/prose/bits_per_byte` is "Bits per byte, held-out prose"."""
    *where, name = metric.split("/")
    words = {
        "bits_per_byte": "Bits per byte",
        "acc": "Accuracy",
        "acc_norm": "Accuracy (length-normalised)",
        "perplexity": "Perplexity",
    }.get(name, name.replace("_", " "))
    if where and where[0] == "heldout":
        where = [f"held-out {where[1]}", *where[2:]]
    if len(where) == 3 and where[0] == "position":
        where = [f"held-out {where[1]}", f"positions {where[2]}"]
    return ", ".join([words, *(part.replace("_", " ") for part in where)])
