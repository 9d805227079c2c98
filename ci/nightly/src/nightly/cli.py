"""The `gateway-nightly` command."""

import argparse
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from kubernetes.client.exceptions import ApiException
from obstore.exceptions import BaseError as BucketError
from obstore.store import from_url

from nightly.bucket import fetch_history, store
from nightly.cluster import Cluster
from nightly.comparing import Outcome, run
from nightly.release import NightFailed, installed
from nightly.settings import HISTORY, BadSettings, Settings, read_settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Exits 0 after a good night, 1 when something is worse than it was, an aim was missed, more requests failed than a
    comparison bears or a part did not come up, and 2 on wrong usage. What was installed is removed in any case, also on
    SIGTERM."""
    parser = argparse.ArgumentParser("gateway-nightly", description=sys.modules["nightly"].__doc__)
    parser.add_argument("--settings", type=Path, required=True, help="YAML file")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        outcomes = night(read_settings(given.settings))
    except BadSettings as error:
        parser.error(str(error))
    except (NightFailed, ApiException, BucketError, OSError) as error:
        sys.exit(f"gateway-nightly: {error}")
    for outcome in outcomes:
        say(f"{outcome.comparison.name}: {'good' if outcome.good else 'NOT GOOD'}, {outcome.report}")
        for problem in outcome.problems:
            print(f"  {problem}", flush=True)
    sys.exit(0 if all(outcome.good for outcome in outcomes) else 1)


def night(settings: Settings) -> list[Outcome]:
    """Raises NightFailed."""
    keep = Path(settings.keep)
    folder = keep / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}"
    bucket = from_url(settings.bucket) if settings.bucket else None
    if bucket is not None:
        fetch_history(bucket, keep)
    outcomes: list[Outcome] = []
    try:
        with installed(settings, Cluster(), say) as release:
            urls = release.urls()
            say(f"installed: {len(release.replicas())} servers")
            release.test()
            say("helm test: each port has answered a chat")
            for comparison in settings.comparisons:
                release.set_strategy(comparison.strategy)
                say(f"comparing {comparison.name}: {comparison.strategy}, {comparison.load}")
                outcomes.append(run(comparison, settings, urls, release.replicas(), folder))
    finally:
        if bucket is not None:
            store(bucket, keep, folder, keep / HISTORY)
    return outcomes


def say(what: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {what}", flush=True)


def _stop(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM ends the night as an error does: by leaving every `with` on the way out."""
    sys.exit(143)
