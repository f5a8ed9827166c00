"""A language model behind an OpenAI-compatible endpoint: one question, one checked answer.

words = ask(Endpoint("http://localhost:8000/v1", "some-model"), prompt, parse=my_parser)
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_MAX_BYTES = 1_000_000
_CHUNK = 65_536
# A 4xx answer comes again, but for these: timeout, too early, too many.
_PASSING = (408, 425, 429)
_log = logging.getLogger(__name__)


class EndpointError(ValueError):
    """The endpoint can't be used, or never gave an answer that makes sense. One line."""


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where and how to ask.

    Attributes:
      url: base of the API, e.g. `http://localhost:8000/v1`; `/chat/completions` is appended.
      model: name the endpoint knows it by.
      key_variable: environment variable that holds the API key; None sends no key.
      timeout: seconds for one answer, all of it.
      attempts: how often to ask before giving up.
      pause: seconds before the second attempt; doubled before each further one.
    """

    url: str
    model: str
    key_variable: str | None = None
    timeout: float = 60.0
    attempts: int = 3
    pause: float = 1.0

    def __post_init__(self) -> None:
        if not _is_address(self.url):
            raise EndpointError(
                f"concept.endpoint = {self.url!r} is no http(s) address; write it like "
                "http://localhost:8000/v1"
            )
        if self.attempts < 1:
            raise EndpointError(f"attempts = {self.attempts}; ask at least once")


def ask(
    endpoint: Endpoint,
    prompt: str,
    parse: Callable[[str], T],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Asks until an answer can be read, at most `endpoint.attempts` times.

    Args:
      endpoint: whom.
      prompt: the user's message.
      parse: reads the answer's text; ValueError means that it is nonsense and asked for again.
      sleep: waits for seconds.
    Raises:
      EndpointError: the key's variable is not set, the request was refused, or no attempt
        brought an answer that `parse` takes. Says what went wrong last.
    """
    request = _request(endpoint, prompt)
    pause = endpoint.pause
    for attempt in range(1, endpoint.attempts + 1):
        try:
            return parse(_content(_send(request, endpoint.timeout)))
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code} {error.reason}"
            error.close()
            if 300 <= error.code < 500 and error.code not in _PASSING:
                raise _failed(endpoint, problem) from None
        except urllib.error.URLError as error:
            problem = f"no connection: {error.reason}"
        except TimeoutError:
            problem = f"no answer within {endpoint.timeout:g} s"
        except (OSError, http.client.HTTPException) as error:
            problem = f"connection broken: {error!r}"
        except ValueError as error:
            problem = f"an answer that makes no sense: {error}"
        if attempt == endpoint.attempts:
            raise _failed(endpoint, f"{problem} (attempt {attempt} of {attempt})") from None
        _log.warning("endpoint %s: %s; asking again in %g s", endpoint.url, problem, pause)
        sleep(pause)
        pause *= 2
    raise AssertionError("unreachable")


def _is_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    # Without spaces and control characters, which a request can't have.
    return whole and parts.scheme in ("http", "https") and url.isprintable() and " " not in url


def _failed(endpoint: Endpoint, problem: str) -> EndpointError:
    problem = " ".join(problem.split())
    return EndpointError(
        f"language model {endpoint.model!r} at {endpoint.url} failed: {problem}; check "
        "concept.endpoint and concept.endpoint_model, or give the words in the config"
    )


def _request(endpoint: Endpoint, prompt: str) -> urllib.request.Request:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if endpoint.key_variable is not None:
        key = os.environ.get(endpoint.key_variable, "").strip()
        if not key:
            raise EndpointError(
                f"environment variable {endpoint.key_variable} is not set; put the API key there, "
                "or set concept.endpoint_key=None for an endpoint without keys"
            )
        # Python's own error would show the key.
        if not (key.isascii() and key.isprintable()):
            raise EndpointError(
                f"environment variable {endpoint.key_variable} holds a line break or a character "
                "that no API key has; put the key alone there"
            )
        headers["Authorization"] = f"Bearer {key}"
    body = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
    }
    return urllib.request.Request(
        endpoint.url.rstrip("/") + "/chat/completions",
        data=json.dumps(body).encode(),
        headers=headers,
        method="POST",
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _send(request: urllib.request.Request, timeout: float) -> bytes:
    deadline = time.monotonic() + timeout
    opener = urllib.request.build_opener(_NoRedirect)
    # The socket's timeout is for each piece; the deadline is for all of them.
    with opener.open(request, timeout=timeout) as response:
        body = b""
        while piece := response.read1(_CHUNK):
            body += piece
            if len(body) > _MAX_BYTES:
                raise ValueError(f"more than {_MAX_BYTES} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError
        if response.length:
            raise http.client.IncompleteRead(body, response.length)
        return body


def _content(body: bytes) -> str:
    """The answer's text; ValueError if the body is not a chat completion."""
    try:
        reply = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise ValueError(f"not JSON: {_start(body)}") from None
    try:
        content = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise ValueError(f"not a chat completion: {_start(body)}") from None
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"an empty message: {_start(body)}")
    return content


def _start(body: bytes, length: int = 80) -> str:
    return repr(body[:length].decode(errors="replace"))
