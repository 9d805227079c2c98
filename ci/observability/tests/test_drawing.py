"""Drawn dashboards, and the formats of values in them."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from observability.drawing.axis import format_tick, format_value
from observability.drawing.collected import Collected, Line, PanelLines, legend_of
from observability.drawing.figure import panel_svg, save_png
from observability.drawing.page import save_html
from observability.panels import Dashboard, Kind, Panel, Row, Unit, number, panel
from observability.prometheus import Series, Span, seconds

SPAN = Span(1_000_000.0, 1_000_060.0, 1.0)
TIMES = [SPAN.start_s + second for second in range(60)]
GRAPH = panel("Running & waiting", Unit.COUNT, ("a", "a"), about="Of <each> server.")


def lines(*legends: str, value: float = 2.0) -> tuple[Line, ...]:
    return tuple(Line(legend, Series({}, TIMES, [value] * len(TIMES))) for legend in legends)


def collected(*shown: PanelLines) -> Collected:
    dashboard = Dashboard("d", "Dashboard", "What it shows.", (Row("Row", tuple(drawn.panel for drawn in shown)),))
    return Collected(dashboard, SPAN, (shown,))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, Unit.SECONDS, "0 s"),
        (0.000041, Unit.SECONDS, "41 us"),
        (0.25, Unit.SECONDS, "250 ms"),
        (90.0, Unit.SECONDS, "90 s"),
        (3600.0, Unit.SECONDS, "60 min"),
        (0.123, Unit.SHARE, "12.3 %"),
        (1234.0, Unit.TOKENS_PER_S, "1.23k tokens/s"),
        (7.0, Unit.COUNT, "7"),
        (80 << 20, Unit.BYTES, "80 MiB"),
    ],
)
def test_a_value_is_formatted_with_a_readable_unit(value: float, unit: Unit, text: str) -> None:
    assert format_value(value, unit) == text


def test_an_axis_repeats_only_units_that_change_along_it() -> None:
    assert format_tick(1500.0, Unit.REQUESTS_PER_S) == "1.5k"
    assert format_tick(0.5, Unit.SECONDS) == "500 ms"


def test_a_legend_has_label_values_and_omits_missing_labels() -> None:
    assert legend_of("{{pod}} {{instance}}", {"pod": "qwen-0", "instance": "a:8000"}) == "qwen-0 a:8000"
    assert legend_of("{{pod}} {{instance}}", {"instance": "a:8000"}) == "a:8000"


@pytest.mark.parametrize(("text", "expected"), [("15s", 15.0), ("1m30s", 90.0), ("500ms", 0.5), ("2h", 7200.0)])
def test_durations_of_prometheus_are_read(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


def svg(shown: Panel, *of: Line) -> str:
    return panel_svg(PanelLines(shown, of), SPAN).decode()


@pytest.mark.parametrize("kind", Kind)
def test_a_panel_without_series_shows_no_data(kind: Kind) -> None:
    """It must not look like a panel whose values are 0."""
    empty = replace(GRAPH, kind=kind)
    assert "<!-- no data -->" in svg(empty)
    assert "<!-- no data -->" not in svg(empty, *lines("one"))


def test_a_nan_is_shown_as_no_data() -> None:
    """A service without requests gives 0 / 0."""
    assert "<!-- no data -->" in svg(number("n", Unit.SECONDS, "a"), *lines("one", value=math.nan))


def test_a_long_legend_is_cut_and_shows_how_many_names_are_missing() -> None:
    drawn = svg(GRAPH, *lines(*(f"qwen-{number}" for number in range(30))))
    assert "<!-- qwen-7, and 22 more -->" in drawn
    assert "qwen-8" not in drawn


def test_a_legend_of_long_names_stays_within_the_panel() -> None:
    drawn = svg(GRAPH, *lines(*(f"default/qwen-inference-gateway/port-{number}" for number in range(6))))
    assert "<!-- default/qwen-inference-gateway/port-3, and 2 more -->" in drawn


def test_a_legend_ends_before_the_panel_below(tmp_path: Path) -> None:
    """A margin wider than the distance of two legend lines is white at the lower edge."""
    names = [f"qwen-l20-57d7db6cf5-gbvq{number} 10.244.0.91:8000" for number in range(4)]
    save_png(collected(PanelLines(GRAPH, lines(*names))), tmp_path / "d.png")
    assert np.all(imread(tmp_path / "d.png")[-8:, :, :3] == 1)


def test_a_panel_shows_its_title_and_unit() -> None:
    drawn = svg(replace(GRAPH, unit=Unit.TOKENS_PER_S), *lines("one"))
    assert "<!-- Running &amp; waiting -->" in drawn
    assert "<!-- tokens/s -->" in drawn


def test_a_page_embeds_its_panels_and_escapes_texts(tmp_path: Path) -> None:
    save_html(collected(PanelLines(GRAPH, lines("one"))), tmp_path / "deep" / "d.html")
    page = (tmp_path / "deep" / "d.html").read_text()
    assert "Running &amp; waiting" in page
    assert "Of &lt;each&gt; server." in page
    assert page.count("data:image/svg+xml;base64,") == 1
    assert "http://" not in page


def test_a_dashboard_is_drawn_as_one_png(tmp_path: Path) -> None:
    save_png(collected(PanelLines(GRAPH, lines("one")), PanelLines(GRAPH, ())), tmp_path / "d.png")
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")
