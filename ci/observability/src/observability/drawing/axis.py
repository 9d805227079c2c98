"""Formats values and times for panels."""

from datetime import datetime

from observability.panels import Unit

UNITS_AT_TICKS = (Unit.SHARE, Unit.SECONDS, Unit.BYTES)
"""Units written at each tick, because the prefix may change along the axis. Other units are written once per axis."""
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_BINARY = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def format_value(value: float, unit: Unit) -> str:
    """A value with its unit, in three significant digits."""
    match unit:
        case Unit.SHARE:
            return f"{100 * value:.3g} %"
        case Unit.SECONDS:
            return _duration(value)
        case Unit.BYTES:
            bound, name = next(((bound, name) for bound, name in _BINARY if value >= bound), (1, "bytes"))
            return f"{value / bound:.3g} {name}"
        case _:
            return f"{_scaled(value)} {unit.axis}".strip()


def format_tick(value: float, unit: Unit) -> str:
    """The label of a tick. It has the unit only for `UNITS_AT_TICKS`."""
    return format_value(value, unit) if unit in UNITS_AT_TICKS else _scaled(value)


def _scaled(value: float) -> str:
    return next((f"{value / size:.3g}{prefix}" for size, prefix in _PREFIXES if abs(value) >= size), f"{value:.3g}")


def _duration(seconds: float) -> str:
    if seconds and abs(seconds) < 1e-3:
        return f"{1e6 * seconds:.3g} us"
    if seconds and abs(seconds) < 1:
        return f"{1e3 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 600 else f"{seconds / 60:.3g} min"


def clock(unix_s: float, span_s: float) -> str:
    """The local time of a tick, with the day if the span exceeds one day."""
    when = datetime.fromtimestamp(unix_s)
    if span_s > 86400:
        return when.strftime("%d %b %H:%M")
    return when.strftime("%H:%M" if span_s > 600 else "%H:%M:%S")
