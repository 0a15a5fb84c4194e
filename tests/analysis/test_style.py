"""Looks that survive grey print and colour blindness, and ticks that can be read."""

import itertools

import numpy as np
import pytest
from matplotlib import ticker
from matplotlib.figure import Figure

from analysis import style
from analysis.figures import save_figure, token_scaling_figure


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 8])
def test_sizes_keep_their_order_in_grey(count):
    """Dark to light, each apart from the next, and none too light to be seen on white."""
    levels = [style.grey_level(color) for color in style.size_colors(count)]
    steps = np.diff(levels)
    assert (steps > 0.5 / count).all()
    assert levels[-1] < 0.75


def test_categories_are_apart_in_grey():
    levels = sorted(style.grey_level(color) for color in style.CATEGORIES)
    assert min(np.diff(levels)) > 0.15
    assert levels[-1] < 0.75


# Viénot, Brettel and Mollon 1999: what red- and green-blind readers see of linear RGB.
PROTAN = np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]])
DEUTAN = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])


@pytest.mark.parametrize("sight", [PROTAN, DEUTAN])
@pytest.mark.parametrize("colors", [style.CATEGORIES, style.size_colors(4), style.size_colors(6)])
def test_colours_are_apart_for_the_colour_blind(sight, colors):
    from matplotlib.colors import to_rgb

    seen = [np.clip(sight @ np.array(to_rgb(color)) ** 2.2, 0, 1) ** (1 / 2.2) for color in colors]
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(seen, 2)) > 0.1


@pytest.mark.parametrize("count", range(1, 9))
def test_categories_never_share_colour_marker_and_line(count):
    looks = style.category_looks([str(place) for place in range(count)])
    assert len(set(map(str, looks.values()))) == count
    assert len({(marker, str(dash)) for _, marker, dash in looks.values()}) == count


def ticks(values, **options):
    axes = Figure().subplots()
    axes.plot(values, values)
    axes.set(xscale="log", xlim=(min(values), max(values)))
    style.log_axis(axes.xaxis, values, **options)
    return [
        axes.xaxis.get_major_formatter()(place) for place in axes.get_xticks() if min(values) <= place <= max(values)
    ]


def test_log_ticks_read_as_numbers():
    assert ticks([250_000, 500_000, 1_000_000, 2_000_000], counts=True) == ["250K", "500K", "1M", "2M"]
    assert ticks([1e9, 1.1e9, 2e9, 9e9], counts=True) == ["1B", "2B", "5B"]
    assert ticks([0.001, 0.002, 0.004]) == ["0.001", "0.002", "0.004"]
    assert ticks([1e12, 2e12, 4e12]) == ["10$^{12}$", "2·10$^{12}$", "4·10$^{12}$"]
    assert [text for text in ticks([1.8, 1.9, 2.1, 2.6]) if text in ("2", "2.2", "2.4")] == ["2", "2.2", "2.4"]
    assert ticks(list(np.geomspace(1e6, 1e11, 40)), counts=True) == ["1M", "10M", "100M", "1B", "10B", "100B"]


@pytest.mark.parametrize(("value", "text"), [(1e12, "10$^{12}$"), (2.5e9, "2.5·10$^{9}$"), (9.97e8, "10$^{9}$")])
def test_powers(value, text):
    assert style.power_label(value) == text


def test_fonts_are_in_the_files(law_frame, tmp_path):
    """Glyphs are outlines in SVG, and embedded fonts in PDF: no file asks its reader for a font."""
    figure, points = token_scaling_figure(law_frame, "heldout/prose/bits_per_byte")
    svg = save_figure(figure, points, tmp_path, "x")[0].read_text()
    assert "<text" not in svg
    with style.house_style():
        figure.savefig(tmp_path / "x.pdf")
    assert b"/FontFile2" in (tmp_path / "x.pdf").read_bytes()


def test_style_leaves_the_callers_settings_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    with style.house_style():
        assert mpl.rcParams["axes.grid"]
    assert dict(mpl.rcParams) == before


def test_minor_ticks_carry_no_labels():
    axes = Figure().subplots()
    axes.set_xscale("log")
    style.token_axis(axes, [1e5, 1e6])
    assert isinstance(axes.xaxis.get_minor_locator(), ticker.NullLocator)
