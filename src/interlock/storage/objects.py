"""Write-once objects: a bucket of an S3-shaped store with object lock, where nothing that was put is ever replaced.

Such a bucket keeps every version of a key. Of each key the *first* version counts: it is the one that was put under the
lock, and what somebody puts or marks as deleted over it later neither changes nor hides it. Credentials come from where
the AWS SDK looks for them (environment, its files, the machine's role), never from arguments. Needs the extra `s3`.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple
from urllib.parse import urlsplit

from interlock.errors import BadRequest, ConfigError, Conflict, InterlockError, NotFound, Unavailable

PART_BYTES = 64 << 20
"""A larger file goes up in parts of so much; a store takes 10,000 of them."""
PARTS_MAX = 10_000
CONNECTIONS_MAX = 8
_CHUNK = 1 << 20
_REGION = "us-east-1"
"""Where nobody names one: other stores than Amazon's want some name, and do not mind which."""
_LATE = datetime.timedelta(seconds=1)
"""Stores keep the date of a lock to the second, or to the millisecond."""


class Lock(NamedTuple):
    """Until when nobody may delete an object, and who nobody is: in mode "governance" a special right still may."""

    mode: Literal["compliance", "governance"]
    until: datetime.datetime


class Version(NamedTuple):
    """The first version of a key. `covered`: a later one, or a mark of deletion, is over it."""

    id: str
    size: int
    covered: bool


class Digest(NamedTuple):
    """A file: its size, its SHA-256, and the SHA-256 of each part of PART_BYTES."""

    size: int
    sha256: bytes
    parts: tuple[bytes, ...]

    @property
    def checksum(self) -> str:
        """What the store has as its checksum: that of the whole, or for parts that of their checksums."""
        if len(self.parts) == 1:
            return _base64(self.sha256)
        return f"{_base64(hashlib.sha256(b''.join(self.parts)).digest())}-{len(self.parts)}"


def digest_of(path: Path) -> Digest:
    """Read a file. OSError as it comes; BadRequest when it is larger than a store takes."""
    whole, parts, size = hashlib.sha256(), list[bytes](), 0
    with path.open("rb") as file:
        while True:
            part, left = hashlib.sha256(), PART_BYTES
            while left and (data := file.read(min(_CHUNK, left))):
                whole.update(data)
                part.update(data)
                left -= len(data)
            if left == PART_BYTES and parts:
                break
            parts.append(part.digest())
            size += PART_BYTES - left
            if left:
                break
    if len(parts) > PARTS_MAX:
        raise BadRequest(f"{path.name} has more than {PARTS_MAX * PART_BYTES} bytes; archive a shorter range")
    return Digest(size, whole.digest(), tuple(parts))


class Bucket:
    """A bucket with versions and object lock. Its methods may be called from several threads.

    All raise Unavailable when the store cannot be reached, ConfigError without credentials, InterlockError in the words
    of the store when it refuses.
    """

    def __init__(self, name: str, endpoint: str = "") -> None:
        """`endpoint`: URL of a store that is not Amazon's. Raises ConfigError: extra missing; BadRequest: bad URL."""
        parts = urlsplit(endpoint)
        if endpoint and (parts.scheme not in {"http", "https"} or not parts.hostname or parts.username):
            raise BadRequest("--endpoint is an http or https URL, without user and password", param="endpoint")
        try:
            import boto3
            from botocore.config import Config
        except ImportError:
            raise ConfigError("this needs boto3, which is not installed; install interlock[s3]") from None
        self.name = name
        with self._words("the store"):
            session = boto3.session.Session()
            self._client: Any = session.client(
                "s3",
                endpoint_url=endpoint or None,
                region_name=session.region_name or _REGION,
                config=Config(
                    connect_timeout=10,
                    read_timeout=120,
                    max_pool_connections=CONNECTIONS_MAX,
                    retries={"mode": "standard", "max_attempts": 4},
                    s3={"addressing_style": "path" if endpoint else "auto"},
                    response_checksum_validation="when_required",  # what is read is hashed here
                ),
            )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def require_lock(self) -> None:
        """Raises BadRequest when the bucket has no object lock: what is put there could be deleted."""
        from botocore.exceptions import ClientError

        with self._words(f"bucket {self.name}"):
            try:
                answer = self._client.get_object_lock_configuration(Bucket=self.name)
                enabled = answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled"
            except ClientError as e:
                if _code(e) not in {"ObjectLockConfigurationNotFoundError", "InvalidRequest", "NotImplemented"}:
                    raise
                enabled = False
        if not enabled:
            raise BadRequest(
                f"bucket {self.name} has no object lock, so that what is put there could be deleted: make one with it",
                param="bucket",
            )

    def versions(self, prefix: str) -> dict[str, Version]:
        """The first version of each key that begins with `prefix`, by what follows it."""
        found: dict[str, Version] = {}
        with self._words(f"bucket {self.name}"):
            for page in self._client.get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=prefix):
                for each in page.get("Versions", ()):  # of a key the newest come first
                    found[each["Key"]] = Version(each["VersionId"], each["Size"], not each["IsLatest"])
        return {key.removeprefix(prefix): version for key, version in found.items()}

    def put(self, key: str, path: Path, digest: Digest, lock: Lock) -> str:
        """Put a file under a key where nothing is, locked; its version's id. Raises Conflict when something is."""
        with self._words(f"{self.name}/{key}"), path.open("rb") as file:
            if len(digest.parts) == 1:
                sent = self._client.put_object(
                    **self._named(key), **_locked(lock), Body=file, ChecksumSHA256=digest.checksum, IfNoneMatch="*"
                )
            else:
                sent = self._put_parts(key, file, digest, lock)
        version: str = sent["VersionId"]
        return version

    def keep(self, key: str, version: Version, digest: Digest, lock: Lock) -> None:
        """Have a version that is there stay under (at least) a lock. Raises Conflict when it is not this file."""
        head = self._head(key, version.id)
        if head["ContentLength"] != digest.size or not self._same(key, version.id, head, digest):
            raise Conflict(f"{self.name}/{key} is there already, and is something else: name another --prefix")
        if not _holds(head, lock):
            with self._words(f"{self.name}/{key}"):
                mode = "COMPLIANCE" if head.get("ObjectLockMode") == "COMPLIANCE" else lock.mode.upper()
                until = max(lock.until, head.get("ObjectLockRetainUntilDate") or lock.until)
                self._client.put_object_retention(
                    Bucket=self.name, Key=key, VersionId=version.id, Retention={"Mode": mode, "RetainUntilDate": until}
                )
            if not _holds(self._head(key, version.id), lock):
                raise InterlockError(f"{self.name}/{key} was put, but the store does not lock it", code="not_locked")

    def get(self, key: str, version: str, path: Path) -> bytes:
        """Write a version to a new file (mode 0600), and give its SHA-256. Raises NotFound; OSError as it comes."""
        whole = hashlib.sha256()
        with path.open("xb") as file:
            path.chmod(0o600)
            for data in self._read(key, version):
                whole.update(data)
                file.write(data)
        return whole.digest()

    def _same(self, key: str, version: str, head: dict[str, Any], digest: Digest) -> bool:
        """By the checksum that the store took; where that does not tell, by what is there."""
        if head.get("ChecksumSHA256") == digest.checksum:
            return True
        whole = hashlib.sha256()
        for data in self._read(key, version):
            whole.update(data)
        return whole.digest() == digest.sha256

    def _read(self, key: str, version: str) -> Iterator[bytes]:
        with self._words(f"{self.name}/{key}"):
            body = self._client.get_object(Bucket=self.name, Key=key, VersionId=version)["Body"]
            with contextlib.closing(body):
                yield from body.iter_chunks(_CHUNK)

    def _head(self, key: str, version: str) -> dict[str, Any]:
        with self._words(f"{self.name}/{key}"):
            head: dict[str, Any] = self._client.head_object(
                Bucket=self.name, Key=key, VersionId=version, ChecksumMode="ENABLED"
            )
            return head

    def _put_parts(self, key: str, file: BinaryIO, digest: Digest, lock: Lock) -> dict[str, Any]:
        named = {"Bucket": self.name, "Key": key}
        upload = self._client.create_multipart_upload(**self._named(key), **_locked(lock))["UploadId"]
        try:
            parts = []
            for number, part in enumerate(digest.parts, 1):
                checksum = _base64(part)
                sent = self._client.upload_part(
                    **self._named(key), UploadId=upload, PartNumber=number, Body=file.read(PART_BYTES),
                    ChecksumSHA256=checksum,
                )  # fmt: skip
                parts.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": checksum})
            done: dict[str, Any] = self._client.complete_multipart_upload(
                **named, UploadId=upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
            )
        except BaseException:
            with contextlib.suppress(Exception):  # the store gives up what was not completed in its own time
                self._client.abort_multipart_upload(**named, UploadId=upload)
            raise
        return done

    def _named(self, key: str) -> dict[str, str]:
        return {"Bucket": self.name, "Key": key, "ChecksumAlgorithm": "SHA256"}

    @contextlib.contextmanager
    def _words(self, what: str) -> Iterator[None]:
        """The SDK's errors as ours."""
        from botocore import exceptions as sdk

        try:
            yield
        except sdk.ClientError as e:
            code, words = _code(e), str(e.response.get("Error", {}).get("Message", ""))[:300]
            if code in {"PreconditionFailed", "ConditionalRequestConflict"}:
                raise Conflict(f"{what} came to be there meanwhile: archive again") from None
            if code in {"NoSuchKey", "NoSuchVersion", "NoSuchBucket", "404"}:
                raise NotFound(f"{what}: there is none") from None
            if code in {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "503", "500"}:
                raise Unavailable(f"{what}: the store cannot take it now ({code})") from None
            raise InterlockError(f"{what}: the store refuses ({code}: {words})", code="store_refused") from None
        except (sdk.NoCredentialsError, sdk.PartialCredentialsError, sdk.CredentialRetrievalError):
            raise ConfigError(
                "no credentials for the store: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or"
                " AWS_PROFILE and a credentials file"
            ) from None
        except (sdk.ConnectionError, sdk.HTTPClientError) as e:
            raise Unavailable(f"{what}: the store cannot be reached ({type(e).__name__})") from None
        except (sdk.BotoCoreError, ValueError) as e:
            raise BadRequest(f"{what}: {e}") from None


def _locked(lock: Lock) -> dict[str, Any]:
    return {"ObjectLockMode": lock.mode.upper(), "ObjectLockRetainUntilDate": lock.until}


def _holds(head: dict[str, Any], lock: Lock) -> bool:
    """Whether an object is locked as long, and as firmly."""
    until = head.get("ObjectLockRetainUntilDate")
    firm = head.get("ObjectLockMode") in ("COMPLIANCE", lock.mode.upper())
    return firm and until is not None and until >= lock.until - _LATE


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
