"""Values and times as people read them."""

from datetime import datetime

from observability.panels import Unit

TOLD_AT_TICKS = (Unit.SHARE, Unit.SECONDS, Unit.BYTES)
"""Units that stand at each value, because it may be in parts or multiples of them; others once for an axis."""
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_BINARY = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def written(value: float, unit: Unit) -> str:
    """A value of a panel in three digits or so."""
    match unit:
        case Unit.SHARE:
            return f"{100 * value:.3g} %"
        case Unit.SECONDS:
            return _duration(value)
        case Unit.BYTES:
            bound, name = next((each for each in _BINARY if value >= each[0]), (1, "bytes"))
            return f"{value / bound:.3g} {name}"
        case _:
            return f"{_scaled(value)} {unit.axis}".strip()


def marked(value: float, unit: Unit) -> str:
    """The same at an axis."""
    return written(value, unit) if unit in TOLD_AT_TICKS else _scaled(value)


def _scaled(value: float) -> str:
    return next((f"{value / size:.3g}{prefix}" for size, prefix in _PREFIXES if abs(value) >= size), f"{value:.3g}")


def _duration(seconds: float) -> str:
    if seconds and abs(seconds) < 1e-3:
        return f"{1e6 * seconds:.3g} us"
    if seconds and abs(seconds) < 1:
        return f"{1e3 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 600 else f"{seconds / 60:.3g} min"


def clock(unix_s: float, span_s: float) -> str:
    """The local time of a tick; with the day where a span is of several."""
    when = datetime.fromtimestamp(unix_s)
    if span_s > 86400:
        return when.strftime("%d %b %H:%M")
    return when.strftime("%H:%M" if span_s > 600 else "%H:%M:%S")
