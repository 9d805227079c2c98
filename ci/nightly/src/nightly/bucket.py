"""Copies reports and their history from and to an S3 bucket, for clusters without a persistent volume.

Credentials and endpoint come from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT
for a bucket of another vendor, and AWS_ALLOW_HTTP for one without TLS."""

# An overload of obstore.list uses types of Arrow, which is not installed.
# pyright: reportUnknownMemberType=false

from pathlib import Path

import obstore
from obstore.store import ObjectStore

from nightly.settings import HISTORY


def fetch_history(bucket: ObjectStore, keep: Path) -> None:
    """Fetches the history of earlier runs, and no other files. Raises obstore's BaseError, OSError."""
    for batch in obstore.list(bucket, HISTORY):
        for found in batch:
            path = keep / found["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(obstore.get(bucket, found["path"]).bytes()))


def store(bucket: ObjectStore, keep: Path, *folders: Path) -> None:
    """Stores the files of `folders` under their paths relative to `keep`. Raises obstore's BaseError, OSError."""
    for folder in folders:
        for path in sorted(file for file in folder.rglob("*") if file.is_file()):
            obstore.put(bucket, path.relative_to(keep).as_posix(), path)
