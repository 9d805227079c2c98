"""Writes a dashboard as one HTML page without external files."""

from base64 import b64encode
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from observability.drawing.collected import Collected, PanelLines
from observability.drawing.figure import panel_svg
from observability.prometheus import Span


@dataclass(frozen=True, slots=True)
class _Picture:
    title: str
    description: str
    width: int
    picture: str
    """SVG in base64."""


@dataclass(frozen=True, slots=True)
class _Row:
    title: str
    panels: tuple[_Picture, ...]


def save_html(collected: Collected, path: Path) -> None:
    """Writes the page and creates its folder. Raises OSError."""
    environment = Environment(
        loader=PackageLoader("observability", "drawing"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    rows = [
        _Row(row.title, tuple(_picture(shown, collected.span) for shown in panels))
        for row, panels in zip(collected.dashboard.rows, collected.rows, strict=True)
    ]
    began, ended = (datetime.fromtimestamp(at) for at in (collected.span.start_s, collected.span.end_s))
    text = environment.get_template("page.html.j2").render(
        dashboard=collected.dashboard, rows=rows, began=f"{began:%Y-%m-%d %H:%M:%S}", ended=f"{ended:%H:%M:%S}"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _picture(shown: PanelLines, span: Span) -> _Picture:
    picture = b64encode(panel_svg(shown, span)).decode()
    return _Picture(shown.panel.title, shown.panel.description, shown.panel.width, picture)
