"""An OpenAI-compatible server over HTTP: requests with their retries, and what each failure means. Knows no job and no step.

The one owner of retries over HTTP. The `openai` client's own are switched off, and what is given up here is a RequestError,
which a pool does not ask again: no retry multiplies another. The pool's own retries stay for replicas that die.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from treesearch.errors import ConfigError, RequestError, RunError
from treesearch.workers import keep_private

Data = dict[str, Any]
T = TypeVar("T")

OFFICIAL = "https://api.openai.com/v1"
KEY_NAME = "OPENAI_API_KEY"
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before the second try, doubled from then on; the most
LONGEST_REPLY = 1 << 25  # bytes of a reply, packed and unpacked
TOO_LONG = RequestError(f"the server's reply is longer than {LONGEST_REPLY >> 20} MiB; it is no good one")
LONGEST_ASKED = 60.0  # seconds: the most of a server's Retry-After that is honoured


def address(base_url: str | None, env: Mapping[str, str] = os.environ) -> str:
    """Where requests go. Raises ConfigError for what is no URL, and for a URL that holds a password."""
    url = base_url or env.get("OPENAI_BASE_URL") or OFFICIAL
    try:
        parts = urlsplit(url)
        inside = parts.password or parts.username
        fine = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        inside, fine = None, False
    if inside:
        raise ConfigError(f"base_url of {parts.hostname}: holds a password; a key is taken from the environment only")
    if not fine:
        raise ConfigError(f"base_url = {url!r}: must be a URL such as http://localhost:8000/v1")
    return url.rstrip("/")


def key(name: str, url: str, env: Mapping[str, str] = os.environ) -> str:
    """The key in the environment variable `name`; local servers need none. Raises ConfigError where one is missing."""
    keep_private(name)
    found = env.get(name)
    if found:
        return found
    if name != KEY_NAME or url == OFFICIAL:
        raise ConfigError(f"api_key_env = {name!r}: this environment variable is not set; `export {name}=...` first")
    return "none"  # the client wants some text


class Endpoint:
    """Requests to one server, at most `connections` in flight, each tried `retries` times again.

    Tried again: 408, 409, 429, 5xx, no reply within `timeout` seconds, a connection that drops, a reply that cannot be
    read; after 0.5 s, 1 s, 2 s ... up to 30 s, less a random part, or after the server's Retry-After up to 60 s.
    Raises RequestError for a request that the server refuses or that was given up, RunError where no request can
    succeed: a key that is refused, an account that is empty, a server that is not there.
    """

    def __init__(self, url: str, secret: str, *, connections: int, timeout: float, retries: int) -> None:
        import openai

        self.url, self.timeout, self.retries = url, timeout, retries
        # what a server says is no address to go to: redirects are replies that are no good ones
        http = openai.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"response": [bound]})
        self.client = openai.AsyncOpenAI(base_url=url, api_key=secret, max_retries=0, timeout=None, http_client=http)
        self.retried = 0
        self._slots = asyncio.Semaphore(connections)
        self._heard = 0.0  # when the last good reply came

    async def complete(self, body: Data, read: Callable[[Data], T], sent: Callable[[], None] | None = None) -> T:
        """What `read` makes of the reply to a request: a chat's where `body` has messages, a completion's where it has
        a prompt. `read` raises for a malformed reply; `sent` is told when the request leaves."""
        kind = "messages" if "messages" in body else "prompt"
        own = {"model", kind}
        api = self.client.chat.completions if kind == "messages" else self.client.completions

        async def once() -> T:
            more = {name: value for name, value in body.items() if name not in own}
            async with api.with_streaming_response.create(
                **{name: body[name] for name in own}, extra_body=more
            ) as reply:
                said = await whole(reply.iter_bytes())
            return well_formed(lambda: json.loads(said), read)

        return await self._patiently(once, sent)

    async def models(self) -> list[Data]:
        """What GET /models lists."""

        async def once() -> list[Data]:
            async with self.client.models.with_streaming_response.list() as reply:
                said = await whole(reply.iter_bytes())
            return well_formed(lambda: json.loads(said), lambda found: [dict(model) for model in found["data"]])

        return await self._patiently(once, None)

    async def close(self) -> None:
        await self.client.close()

    async def _patiently(self, once: Callable[[], Any], sent: Callable[[], None] | None) -> Any:
        began = time.monotonic()
        for attempt in itertools.count():
            async with self._slots:
                if sent is not None:
                    sent()
                try:
                    async with asyncio.timeout(self.timeout):
                        reply = await once()
                    self._heard = time.monotonic()
                    return reply
                except Exception as error:
                    failure = error
            if not passes(failure):
                if (number := getattr(failure, "status_code", None)) is None:
                    raise failure
                raise self._refused(failure, number) from failure
            if attempt >= self.retries:
                raise self._given_up(failure, attempt + 1, began) from failure
            self.retried += 1
            await asyncio.sleep(pause(failure, attempt))

    def _refused(self, error: Exception, number: int) -> Exception:
        if number in (401, 403) or empty(error):
            return RunError(f"{self.url} refuses the key or the account ({number}): {message(error)}")
        return RequestError(f"{self.url} refuses the request ({number}): {message(error)}")

    def _given_up(self, error: Exception, tries: int, began: float) -> Exception:
        if (
            unreachable(error) and self._heard < began
        ):  # nobody got through meanwhile: it is the server, not this request
            return RunError(f"{self.url} does not answer ({tries} tries): {message(error)}")
        return RequestError(f"{self.url}: given up after {tries} tries: {message(error)}")


async def bound(response: Any) -> None:
    """A hook of the HTTP client: no reply's body is longer than the longest, and one that tells of an error is not unpacked,
    for the client reads it at once."""
    if response.status_code >= 300:
        response.headers.pop("content-encoding", None)
    response.stream = _bounded(response.stream)


def _bounded(stream: Any) -> Any:
    # by name: openai's client is built on httpx or on its successor
    base: Any = next(kind for kind in type(stream).__mro__ if kind.__name__ == "AsyncByteStream")

    class Bounded(base):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for part in stream:
                size += len(part)
                if size > LONGEST_REPLY:
                    raise TOO_LONG
                yield part

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


async def whole(parts: AsyncIterator[bytes]) -> bytes:
    """A reply's body, unpacked. Raises RequestError once it is longer than any reply is."""
    said = bytearray()
    try:
        async for part in parts:
            said += part
            if len(said) > LONGEST_REPLY:
                raise TOO_LONG
    except RequestError:
        raise
    except Exception as error:  # of the HTTP library, which openai's client names here no longer
        raise ConnectionError("the connection broke off within the reply") from error
    return bytes(said)


def well_formed(load: Callable[[], Any], read: Callable[[Any], T]) -> T:
    """What `read` makes of the JSON that `load` gives. Raises ValueError, whatever is wrong with it."""
    try:
        return read(load())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"a malformed reply: {error!r}") from error


def passes(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return (error.status_code in (408, 409, 429) or error.status_code >= 500) and not empty(error)
    return isinstance(error, openai.APIError | TimeoutError | ConnectionError | ValueError)


def unreachable(error: Exception) -> bool:
    """Whether no connection came about, or it was cut."""
    import openai

    return isinstance(error, openai.APIConnectionError | ConnectionError)


def empty(error: Exception) -> bool:
    """Whether an account has nothing left: OpenAI says so with the status of too many requests."""
    return getattr(error, "code", None) == "insufficient_quota"


def pause(error: Exception, attempt: int, uniform: Callable[[], float] = random.random) -> float:
    """Seconds to wait after this try: as the server asks, else twice as long each time, less up to half by chance."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        asked = float(headers.get("retry-after", "nan"))
    except ValueError:  # a date
        asked = float("nan")
    if asked >= 0:
        return min(asked, LONGEST_ASKED) + 0.1 * uniform()  # those who were told the same do not come back as one
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt) * (1 - uniform() / 2)


def message(error: BaseException) -> str:
    """What a server said, in one line of at most 500 characters."""
    body = getattr(error, "body", None)
    told = body.get("message") if isinstance(body, dict) else None
    text = str(told or error) or type(error).__name__
    cause = error.__cause__
    if unreachable(error) and cause is not None:  # type: ignore[arg-type]
        text = f"{text} {cause}"
    return " ".join(text.split())[:500]


def status(error: BaseException) -> int | None:
    """The HTTP status behind a refusal; None where there was none."""
    found = getattr(error.__cause__, "status_code", None)
    return found if isinstance(found, int) else None
