"""The kept folder in an S3 bucket, for clusters without a volume that outlives the night. Credentials and endpoint come
from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT for another vendor's, and
AWS_ALLOW_HTTP for one without TLS."""

# A variant of obstore.list has Arrow's types, which are not here.
# pyright: reportUnknownMemberType=false

from pathlib import Path

import obstore
from obstore.store import ObjectStore

from nightly.settings import HISTORY


def fetch_history(bucket: ObjectStore, keep: Path) -> None:
    """What earlier nights have found, and nothing else of theirs. Raises obstore's BaseError, OSError."""
    for batch in obstore.list(bucket, HISTORY):
        for each in batch:
            path = keep / each["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(obstore.get(bucket, each["path"]).bytes()))


def store(bucket: ObjectStore, keep: Path, *folders: Path) -> None:
    """Put the files in `folders`, which are in `keep`, under the names that they have there. Raises as above."""
    for folder in folders:
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            obstore.put(bucket, path.relative_to(keep).as_posix(), path)
