"""Where a model server is, and how patiently it is asked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from rlpost.errors import ConfigError

ROUTES = ("/chat/completions", "/completions", "/models")


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """One server. The key itself is never among the settings, only the name of its variable.

    Attributes:
        url: up to the version, such as "http://localhost:8000/v1"; an address without a path gets "/v1".
        model: the name that the server has for it; None takes the only model it has.
        key_variable: the environment variable with the API key; many servers need none.
        concurrency: requests at the same time.
        timeout_s: seconds that one attempt may take.
        deadline_s: seconds that one request may take, all attempts and waits together.
        retries: further attempts after one that may do better next time: statuses 408, 409, 429 and 5xx,
            lost connections, attempts that took too long, answers that cannot be read.
        backoff_s: the wait before the first retry; it doubles with every further one, up to 30 s. A server's
            Retry-After goes before it.

    Raises:
        ConfigError: a value is out of range, or the URL is none.
    """

    url: str
    model: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 64
    timeout_s: float = 600.0
    deadline_s: float = 1800.0
    retries: int = 8
    backoff_s: float = 0.5

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"the endpoint's {name} is out of range",
                    found=getattr(self, name),
                    needed=f"{least} or more",
                )
        for name in ("timeout_s", "deadline_s", "backoff_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"the endpoint's {name} is out of range", found=getattr(self, name), needed="above 0"
                )
        _check_url(self.url)

    @property
    def address(self) -> str:
        """The URL that routes are appended to, without a slash at its end."""
        parts = urlsplit(self.url.strip())
        path = parts.path.rstrip("/") or "/v1"
        return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))

    def key(self) -> str | None:
        """The API key; None when the variable is not set or empty.

        Raises:
            ConfigError: it holds what no header can.
        """
        key = os.environ.get(self.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError(
                "the API key holds characters that no key has",
                where=f"the environment variable {self.key_variable}",
                needed="printable ASCII characters without spaces",
            )
        return key or None


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            "this is not the URL of a model server",
            found=repr(url),
            needed="such as http://localhost:8000/v1",
        )
    if parts.username or parts.password:
        raise ConfigError(
            "a URL with a user or password would put it into results and messages",
            found=f"the URL of {parts.hostname}",
            remedy="put the key into an environment variable, and name that",
        )
    route = next((r for r in ROUTES if parts.path.rstrip("/").endswith(r)), None)
    if route is not None:
        raise ConfigError(
            "the URL of a model server ends before the route",
            found=url,
            needed=f"the same without {route}",
        )
