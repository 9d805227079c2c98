"""The two commands' arguments and their loops."""

import argparse
import os
import sys
import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from picker.commands.top.client import DEFAULT_URL, NoAnswer, PickerClient
from picker.commands.top.explanation import explanation, overview
from picker.commands.top.view import Sample, view

INTERVAL_S = 1.0
PLAIN_WIDTH = 160
"""Columns of a file or a pipe, which have none of their own: the widest table with pods' names fits."""


def top(arguments: Sequence[str]) -> int:
    """Show the pools until interrupted. The exit status. Raises NoAnswer when the picker never answered."""
    parser = argparse.ArgumentParser("picker top", description="Watch a picker: its pools, endpoints and their load.")
    parser.add_argument("url", nargs="?", default=DEFAULT_URL, help="its admin address (%(default)s)")
    parser.add_argument("--once", action="store_true", help="print one table and end")
    parser.add_argument(
        "--interval", type=_seconds, default=INTERVAL_S, metavar="SECONDS", help="between two looks (%(default)g)"
    )
    given = parser.parse_args(arguments)
    client, console = PickerClient(given.url), _console()
    before, now = None, Sample(time.monotonic(), client.pools())
    if given.once:
        console.print(view(now, before, client.url))
        return 0
    try:
        with Live(view(now, before, client.url), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(given.interval)
                try:
                    before, now = now, Sample(time.monotonic(), client.pools())
                    live.update(view(now, before, client.url), refresh=True)
                except NoAnswer as error:
                    # A picker that is started again is back in a second.
                    live.update(Group(Text(str(error), style="red"), view(now, before, client.url)), refresh=True)
    except KeyboardInterrupt:
        return 0


def explain(arguments: Sequence[str]) -> int:
    """Tell why a request went where it went, or list the newest decisions. The exit status: 1 where none is known.
    Raises NoAnswer."""
    parser = argparse.ArgumentParser(
        "picker explain",
        description="Why a request went where it went. Without a REQUEST-ID the newest decisions are listed.",
    )
    parser.add_argument(
        "request_id", nargs="?", metavar="REQUEST-ID", help="the answer's x-request-id, or how it begins"
    )
    parser.add_argument("--url", default=DEFAULT_URL, help="the picker's admin address (%(default)s)")
    parser.add_argument("--pool", metavar="NAMESPACE/NAME", help="only of this pool")
    parser.add_argument("--newest", type=int, default=10, metavar="N", help="how many to list (%(default)s)")
    given = parser.parse_args(arguments)
    client, console = PickerClient(given.url), _console()
    limit = 1 if given.request_id else max(1, given.newest)
    decisions = client.decisions(limit=limit, request_id=given.request_id, pool=given.pool)
    if not decisions:
        asked = f"no decision on {given.request_id}" if given.request_id else "no decision"
        console.print(f"The picker remembers {asked}. It keeps the newest (kept-decisions), each replica its own.")
        return 1
    console.print(explanation(decisions[0]) if given.request_id else overview(decisions))
    return 0


def _console() -> Console:
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    # Names are not markup: `[/x]` is a name, and not the end of a style.
    return Console(width=width, markup=False, emoji=False, highlight=False)


def _seconds(text: str) -> float:
    value = float(text)
    if value < 0.1:
        raise argparse.ArgumentTypeError("at least 0.1")
    return value
