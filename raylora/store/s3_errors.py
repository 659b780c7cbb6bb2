"""What S3 errors mean: worth another try, or something for the user to correct.

In comes an exception of s3fs, botocore or aiohttp, out comes a judgement or a `StoreError`. Called by `s3`.
"""

from __future__ import annotations

import os
from typing import Any

from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError
from botocore.exceptions import ConnectionError as BotoConnectionError
from s3fs.core import S3_RETRYABLE_ERRORS

from raylora.errors import MissingObjectError, StoreError, UnusableStoreError
from raylora.spec.text.secrets import without_secret
from raylora.store.files import kind_of, reason

NO_DOCUMENT = "400"
"""All that there is to read of an answer to HEAD, which has no document: mostly a token expired."""

REFUSED_KEYS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestTimeTooSkewed",
    NO_DOCUMENT,
}
FORBIDDEN = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "403"}
EXISTING = {"PreconditionFailed", "412"}
BUSY = {
    "SlowDown",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "OperationAborted",
    "ConditionalRequestConflict",
    "429",
}
BROKEN_CONNECTION = (*S3_RETRYABLE_ERRORS, BotoConnectionError, ConnectionError, TimeoutError)


def is_transient(error: Exception) -> bool:
    """Return whether the same request may succeed later: no answer, a busy server, or one with a failure of its own."""
    answer = _answer(error)
    if answer is None:
        return isinstance(error, BROKEN_CONNECTION)
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return _code(answer) in BUSY or status == 429 or (status >= 500 and status != 501)


def is_missing_object(error: FileNotFoundError) -> bool:
    """Return whether the object is what is missing, and not its whole bucket."""
    answer = _answer(error)
    return answer is None or _code(answer) != "NoSuchBucket"


def is_existing_object(error: OSError) -> bool:
    """Return whether an object was not to be there and is."""
    answer = _answer(error)
    return answer is not None and _code(answer) in EXISTING


def is_forbidden(error: Exception) -> bool:
    """Return whether the server knows the key, and does not let it do this."""
    answer = _answer(error)
    return answer is not None and _code(answer) in FORBIDDEN


def is_unconditional(error: OSError) -> bool:
    """Return whether the server knows no conditions on a write, and says so."""
    answer = _answer(error)
    return answer is not None and _code(answer) in {"NotImplemented", "501"}


def store_error(error: Exception, failure: str, bucket: str) -> StoreError:
    """Return the `StoreError` that tells the user what to do about `error`; its class says whether all others meet it.

    Args:
        error: What s3fs raised.
        failure: What could not be done, with its URI.
        bucket: Name of the bucket.
    """
    if isinstance(error, StoreError):
        return error
    answer = _answer(error)
    code = _code(answer) if answer else ""
    endpoint = without_secret(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS")
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        advice = "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    elif code in REFUSED_KEYS:
        advice = f"{endpoint} refuses the credentials ({code}); correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        if code == NO_DOCUMENT:
            advice += ", or AWS_DEFAULT_REGION, or the signature or encryption that the request asks for"
    elif code in FORBIDDEN:
        advice = f"{endpoint} forbids it to this key ({code}); allow it to read, write, list and delete in '{bucket}'"
    elif code == "NoSuchBucket":
        # Of one trial's rows it may be: where a run's own store is, was found out before.
        return StoreError(f"{failure}: {endpoint} has no bucket '{bucket}'; create it or correct its name")
    elif isinstance(error, FileNotFoundError):
        return MissingObjectError(f"{failure}: there is no {error.filename or 'such object'}")
    elif is_transient(error):
        advice = f"{endpoint} does not answer as it should ({_said(error)}); check AWS_ENDPOINT_URL and the server"
    else:
        advice = reason(error) if isinstance(error, OSError) and answer is None else _said(error)
        return kind_of(error)(f"{failure}: {advice}")  # of this machine's disk, where a file comes from or goes to
    return UnusableStoreError(f"{failure}: {advice}")


def _answer(error: BaseException | None) -> dict[str, Any] | None:
    """Return the server's error document: s3fs keeps it in the cause of the built-in error it raises."""
    while error is not None:
        if isinstance(error, ClientError):
            return dict(error.response)
        error = error.__cause__
    return None


def _code(answer: dict[str, Any]) -> str:
    return str(answer.get("Error", {}).get("Code", ""))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
