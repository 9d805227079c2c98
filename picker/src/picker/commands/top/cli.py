"""The arguments of the two commands, and their loops."""

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
"""Width of output to a file or a pipe, in columns: the widest table with pod names fits."""


def top(arguments: Sequence[str]) -> int:
    """Shows the pools until interrupted. Returns the exit status. Raises NoAnswer if the picker never answered."""
    parser = argparse.ArgumentParser(
        "picker top", description="Show the pools, the endpoints and the load of a picker."
    )
    parser.add_argument("url", nargs="?", default=DEFAULT_URL, help="the picker's admin address (%(default)s)")
    parser.add_argument("--once", action="store_true", help="print one table and exit")
    parser.add_argument(
        "--interval", type=_seconds, default=INTERVAL_S, metavar="SECONDS", help="between two refreshes (%(default)g)"
    )
    options = parser.parse_args(arguments)
    client, console = PickerClient(options.url), _console()
    previous, current = None, Sample(time.monotonic(), client.pools())
    if options.once:
        console.print(view(current, previous, client.url))
        return 0
    try:
        with Live(view(current, previous, client.url), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(options.interval)
                try:
                    previous, current = current, Sample(time.monotonic(), client.pools())
                    live.update(view(current, previous, client.url), refresh=True)
                except NoAnswer as error:
                    # A restarted picker answers again after a second.
                    live.update(Group(Text(str(error), style="red"), view(current, previous, client.url)), refresh=True)
    except KeyboardInterrupt:
        return 0


def explain(arguments: Sequence[str]) -> int:
    """Explains one decision, or lists the newest ones. Returns the exit status: 1 if no decision is found. Raises
    NoAnswer."""
    parser = argparse.ArgumentParser(
        "picker explain",
        description="Explain why a request was sent to its endpoint. Without a REQUEST-ID, list the newest decisions.",
    )
    parser.add_argument(
        "request_id", nargs="?", metavar="REQUEST-ID", help="the response's x-request-id, or its beginning"
    )
    parser.add_argument("--url", default=DEFAULT_URL, help="the picker's admin address (%(default)s)")
    parser.add_argument("--pool", metavar="NAMESPACE/NAME", help="only decisions of this pool")
    parser.add_argument("--newest", type=int, default=10, metavar="N", help="number of decisions to list (%(default)s)")
    options = parser.parse_args(arguments)
    client, console = PickerClient(options.url), _console()
    limit = 1 if options.request_id else max(1, options.newest)
    decisions = client.decisions(limit=limit, request_id=options.request_id, pool=options.pool)
    if not decisions:
        subject = f"no decision on {options.request_id}" if options.request_id else "no decision"
        console.print(f"The picker has {subject}. Each replica keeps its own newest decisions (kept-decisions).")
        return 1
    console.print(explanation(decisions[0]) if options.request_id else overview(decisions))
    return 0


def _console() -> Console:
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    # Names are not markup: `[/x]` is a name, not the end of a style.
    return Console(width=width, markup=False, emoji=False, highlight=False)


def _seconds(text: str) -> float:
    value = float(text)
    if value < 0.1:
        raise argparse.ArgumentTypeError("at least 0.1")
    return value
