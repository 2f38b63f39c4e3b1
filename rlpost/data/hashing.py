"""Hashes of plain data that are equal on every machine and in every process."""

from __future__ import annotations

import base64
import datetime
import decimal
import hashlib
import json
import uuid


def canonical_json(value: object) -> bytes:
    """One spelling of a plain value: sorted keys, no spaces, UTF-8.

    Dates, times, decimals, UUIDs and bytes, which parquet files hold, are spelled as text.

    Raises:
        TypeError: the value holds something that is not plain data, such as an image.
        UnicodeEncodeError: a text holds half of a surrogate pair.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_spell)
    return text.encode("utf-8")


def content_hash(value: object) -> str:
    """The SHA-256 of `canonical_json(value)`, in hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _spell(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | decimal.Decimal | uuid.UUID):
        return str(value)
    raise TypeError(f"a {type(value).__name__} is not plain data")
