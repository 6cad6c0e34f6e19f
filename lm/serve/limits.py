"""Who may ask, and how much: keys with their tokens a minute, browsers' pages, sizes, times."""

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lm.config import UserError
from lm.serve.protocol import ApiError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses that only this machine's own programs reach."""
SHORTEST = 16
"""Letters of a key, at least."""


@dataclass(frozen=True)
class Limits:
    """What one server takes on."""

    waiting: int = 256
    """Texts that wait for a slot, over all requests; beyond them is 429."""
    seconds: float = 300.0
    """A request's longest, from its last byte on."""
    upload_seconds: float = 20.0
    """How long a client may take to send a request."""
    connections: int = 512
    """Connections at once; beyond them is 503."""
    body: int = 4 << 20
    """Bytes of a request."""
    grace: float = 20.0
    """How long answers that run may go on when the server is to stop (s)."""


class TokenBucket:
    """So many tokens a minute: full at first, refilled steadily, and never beyond that."""

    def __init__(self, a_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._a_minute, self._clock = a_minute, clock
        self._left, self._then = float(a_minute), clock()

    def take(self, tokens: int) -> None:
        """Takes tokens in advance; raises ApiError where there are not as many.

        >>> bucket = TokenBucket(60, clock=lambda: 0.0)
        >>> bucket.take(50)
        >>> bucket.take(20)
        Traceback (most recent call last):
        lm.serve.protocol.ApiError: 20 tokens asked for; the key has 10 left of 60 a minute
        """
        now = self._clock()
        refilled = self._left + (now - self._then) * self._a_minute / 60
        self._left, self._then = min(self._a_minute, refilled), now
        if tokens > self._left:
            raise ApiError(
                429,
                f"{tokens} tokens asked for; the key has {int(self._left)} left of"
                f" {self._a_minute} a minute",
                code="rate_limit_exceeded",
                retry_after=(tokens - self._left) * 60 / self._a_minute,
            )
        self._left -= tokens

    def give_back(self, tokens: int) -> None:
        """Gives back what was taken and not used."""
        self._left = min(self._a_minute, self._left + tokens)


class KeyRing:
    """The keys that a server takes; none: it asks for no key."""

    def __init__(self, keys: Mapping[str, int | None]) -> None:
        self._buckets = [
            (_digest(key), None if a_minute is None else TokenBucket(a_minute))
            for key, a_minute in keys.items()
        ]

    def check(self, authorization: str | None) -> TokenBucket | None:
        """The tokens that whoever asks has; None: as many as wanted. Raises ApiError.

        All keys are compared, whichever fits, and each in constant time, so that how long it
        takes says nothing of them.
        """
        if not self._buckets:
            return None
        scheme, _, key = (authorization or "").partition(" ")
        given, found = _digest(key.strip()), []
        for digest, bucket in self._buckets:
            if hmac.compare_digest(digest, given):
                found.append(bucket)
        if not found or scheme.lower() != "bearer":
            raise ApiError(
                401,
                "no such key: give one of this server's as Authorization: Bearer KEY",
                code="invalid_api_key",
            )
        return found[0]


def read_keys(path: Path) -> KeyRing:
    """The keys of a file: one a line, behind it its tokens a minute, if they are limited.

    Raises UserError where it holds no key, or a line is none.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"--keys {path}: {reason}") from None
    keys: dict[str, int | None] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        key, *rest = words
        if len(key) < SHORTEST or not key.isascii():
            raise UserError(
                f"--keys {path}:{number}: a key has at least {SHORTEST} letters, ASCII"
            )
        if len(rest) > 1 or not all(word.isdecimal() and int(word) for word in rest):
            raise UserError(
                f"--keys {path}:{number}: behind the key is a number of tokens a minute > 0,"
                " or nothing"
            )
        if key in keys:
            raise UserError(f"--keys {path}:{number}: the key is there twice")
        keys[key] = int(rest[0]) if rest else None
    if not keys:
        raise UserError(f"--keys {path}: it holds no key")
    return KeyRing(keys)


def check_host(headers: Mapping[str, str], hosts: Sequence[str] | None) -> None:
    """Refuses a browser that reached the server by a foreign name; raises ApiError.

    Anybody may let a name of theirs point to this machine, and a page of that name would then
    be of this server's origin. `hosts`: names that are this server's; None: any, as of a server
    that others reach and that asks for keys.
    """
    host = headers.get("host", "")
    if hosts is not None and _name(host) not in hosts:
        raise ApiError(403, f"Host {host[:80]!r}: this server is {' or '.join(hosts)}")


def check_origin(headers: Mapping[str, str]) -> None:
    """Refuses what a page of another origin has a browser send; raises ApiError.

    Browsers say which page asks, by `Origin` and `Sec-Fetch-Site`.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if origin is not None and origin.partition("://")[2] != headers.get("host", ""):
        raise ApiError(403, f"Origin {origin[:80]!r}: pages of another origin may not ask")
    if site not in ("same-origin", "none"):
        raise ApiError(403, f"Sec-Fetch-Site {site[:80]!r}: other sites may not ask")


def _name(host: str) -> str:
    """A host without its port.

    >>> _name("127.0.0.1:8000"), _name("[::1]:8000"), _name("localhost")
    ('127.0.0.1', '::1', 'localhost')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()
