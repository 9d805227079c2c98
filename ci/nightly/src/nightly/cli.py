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
from nightly.comparison import Outcome, run
from nightly.release import NightlyFailed, installed
from nightly.settings import HISTORY, BadSettings, Settings, read_settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits.

    Exit status 0: the run passed. 1: a figure is a regression, a threshold was missed, more requests failed than a
    comparison tolerates, or a part did not become ready. 2: wrong usage. The installation is always removed, also on
    SIGTERM."""
    parser = argparse.ArgumentParser("gateway-nightly", description=sys.modules["nightly"].__doc__)
    parser.add_argument("--settings", type=Path, required=True, help="YAML file")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        outcomes = run_nightly(read_settings(given.settings))
    except BadSettings as error:
        parser.error(str(error))
    except (NightlyFailed, ApiException, BucketError, OSError) as error:
        sys.exit(f"gateway-nightly: {error}")
    for outcome in outcomes:
        log(f"{outcome.comparison.name}: {'passed' if outcome.passed else 'FAILED'}, {outcome.report}")
        for problem in outcome.problems:
            print(f"  {problem}", flush=True)
    sys.exit(0 if all(outcome.passed for outcome in outcomes) else 1)


def run_nightly(settings: Settings) -> list[Outcome]:
    """Installs the release, runs all comparisons, and removes the release.

    Reports are stored in the bucket even after an error. Raises NightlyFailed, ApiException, obstore's BaseError,
    OSError."""
    keep = Path(settings.keep)
    folder = keep / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}"
    bucket = from_url(settings.bucket) if settings.bucket else None
    if bucket is not None:
        fetch_history(bucket, keep)
    outcomes: list[Outcome] = []
    try:
        with installed(settings, Cluster(), log) as release:
            urls = release.urls()
            log(f"installed: {len(release.replicas())} servers")
            release.test()
            log("helm test: each port answered a chat request")
            for comparison in settings.comparisons:
                release.set_strategy(comparison.strategy)
                log(f"comparing {comparison.name}: {comparison.strategy}, {comparison.load}")
                outcomes.append(run(comparison, settings, urls, release.replicas(), folder))
    finally:
        if bucket is not None:
            store(bucket, keep, folder, keep / HISTORY)
    return outcomes


def log(message: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {message}", flush=True)


def _stop(_number: int, _frame: FrameType | None) -> None:
    """Handles SIGTERM like an error: raises SystemExit, so that every `with` block removes what it made."""
    sys.exit(143)
