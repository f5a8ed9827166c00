"""Asking a language model: a small server here that also sends broken replies."""

from __future__ import annotations

import http.server
import json
import logging
import socket
import threading
import time

import pytest

from ea_jax.concepts import irrelevant, synonyms
from ea_jax.concepts.endpoint import Endpoint, EndpointError, ask

GOOD = {
    "no_relation": [["cloud", 0.1], ["tree", 0.2]],
    "far": [["hot", 0.3], ["color", 0.4]],
    "mid": [["image", 0.5], ["figure", 0.6]],
}


def completion(content) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


class Server:
    """Answers with `replies` in turn, the last one again and again; keeps the requests.

    A reply is a body, a status, or a function of the handler.
    """

    def __init__(self):
        self.replies: list = []
        self.requests: list[tuple[str, dict, dict]] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.requests.append((self.path, dict(self.headers), json.loads(body)))
                reply = server.replies[min(len(server.requests), len(server.replies)) - 1]
                if callable(reply):
                    reply(self)
                    return
                status, body = (200, reply) if isinstance(reply, bytes) else (reply, b"oops")
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def endpoint(self, **options) -> Endpoint:
        return Endpoint(self.url, "toy", **{"timeout": 5.0, "pause": 0.0, **options})


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


def test_a_question_is_posted_as_a_chat_with_the_key(server, monkeypatch):
    monkeypatch.setenv("TOY_KEY", "secret")
    server.replies = [completion("yes")]
    assert ask(server.endpoint(key_variable="TOY_KEY"), "well?", str.upper) == "YES"
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body["model"] == "toy"
    assert body["messages"] == [{"role": "user", "content": "well?"}]


def test_no_key_is_sent_unless_a_variable_is_named(server):
    server.replies = [completion("yes")]
    ask(server.endpoint(), "well?", str)
    assert "Authorization" not in server.requests[0][1]


def test_a_named_variable_that_is_not_set_is_an_error(server, monkeypatch):
    monkeypatch.delenv("TOY_KEY", raising=False)
    with pytest.raises(EndpointError, match="environment variable TOY_KEY is not set"):
        ask(server.endpoint(key_variable="TOY_KEY"), "well?", str)
    assert not server.requests


def drip(handler) -> None:
    """Sends a byte now and then, each in time for the socket's own timeout."""
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(50):
            handler.wfile.write(b" ")
            time.sleep(0.02)
    except OSError:
        pass


def stall(handler) -> None:
    time.sleep(0.5)


def hang_up(handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def redirect(handler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "http://127.0.0.1:9/elsewhere")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


WHOLE = json.dumps(GOOD)
BROKEN = {
    "html": (b"<html><body>Bad gateway</body></html>", "not JSON: '<html>"),
    "no completion": (b'{"error": "overloaded"}', "not a chat completion"),
    "a list": (b"[1, 2]", "not a chat completion"),
    "nested too deep": (b"[" * 200_000, r"not JSON: '\[\[\["),
    "no text": (completion(None), "an empty message"),
    "nothing": (b"", "not JSON: ''"),
    "not utf-8": (b"\xff\xfe{}", "not JSON"),
    "too long": (b"x" * 1_000_001, "more than 1000000 bytes"),
    "status 500": (500, "HTTP 500"),
    "status 429": (429, "HTTP 429"),
    "timeout": (stall, "no answer within 0.1 s"),
    "drip": (drip, "no answer within 0.1 s"),
    "hung up": (hang_up, "connection broken"),
    "prose": (completion("I would rather not."), "no list 'no_relation'"),
    "truncated": (completion(WHOLE[:-9]), "a list that is cut off"),
    "a class missing": (completion(WHOLE.replace("far", "near")), "no list 'far'"),
    "an empty class": (completion('no_relation: [], far: [["a", 0.1]], mid: []'), "is empty"),
    "wrong types": (completion(WHOLE.replace("0.4", '"0.4"')), "score '0.4' of 'color'"),
    "not a number": (completion(WHOLE.replace("0.4", "NaN")), "score nan of 'color'"),
    "out of range": (completion(WHOLE.replace("0.4", "4")), "score 4 of 'color'"),
    "true": (completion(WHOLE.replace("0.4", "true")), "score True of 'color'"),
    "no scores": (completion(WHOLE.replace('["hot", 0.3]', '"hot"')), "words without scores"),
    "numbers": (completion(WHOLE.replace('"hot"', "7")), "7 in class 'far' is no word"),
    "triples": (completion(WHOLE.replace("0.4", "0.4, 1")), "is no .word, score. pair"),
    "code": (completion(WHOLE.replace("0.4", "__import__('os')")), "not JSON"),
    "the concept": (completion(WHOLE.replace("hot", "Nude art")), "'Nude art' is the concept"),
    "twice": (completion(WHOLE.replace("hot", "Cloud")), "'Cloud' is given twice"),
    "held out": (completion(WHOLE.replace("hot", "naked")), "'naked' is the concept 'nude', a syn"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_reply_is_one_clear_error_after_a_few_attempts(server, kind):
    reply, message = BROKEN[kind]
    server.replies = [reply]
    timeout = 0.1 if callable(reply) else 5.0
    with pytest.raises(EndpointError, match=message) as caught:
        irrelevant.from_endpoint(
            server.endpoint(timeout=timeout, attempts=2), "nude", avoid=("naked",)
        )
    assert len(server.requests) == 2
    text = str(caught.value)
    assert "\n" not in text
    assert server.url in text
    assert "concept.endpoint" in text


def test_a_broken_reply_is_forgiven_when_the_next_is_whole(server, caplog):
    server.replies = [500, b"<html>", completion(json.dumps(GOOD))]
    with caplog.at_level(logging.WARNING):
        words = irrelevant.from_endpoint(server.endpoint(), "nude")
    assert words.classes == (("cloud", "tree"), ("hot", "color"), ("image", "figure"))
    assert words.source == "endpoint"
    assert len(server.requests) == 3
    assert caplog.text.count("asking again") == 2


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_not_asked_again(server, status):
    server.replies = [status]
    with pytest.raises(EndpointError, match=f"HTTP {status}"):
        ask(server.endpoint(), "well?", str)
    assert len(server.requests) == 1


def test_a_redirect_does_not_carry_the_key_elsewhere(server, monkeypatch):
    monkeypatch.setenv("TOY_KEY", "secret")
    server.replies = [redirect]
    with pytest.raises(EndpointError, match="HTTP 302") as caught:
        ask(server.endpoint(key_variable="TOY_KEY"), "well?", str)
    assert len(server.requests) == 1
    assert "secret" not in str(caught.value)


def test_a_refused_connection_is_asked_again_with_growing_pauses():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        pauses: list[float] = []
        with pytest.raises(EndpointError, match=r"no connection: .*refused.* \(attempt 3 of 3\)"):
            ask(Endpoint(url, "toy", pause=0.5), "well?", str, sleep=pauses.append)
    assert pauses == [0.5, 1.0]


def test_a_key_that_can_not_be_one_is_refused_and_not_shown(server, monkeypatch):
    for key in ("secret\nsecret", "secr\u00e9t"):
        monkeypatch.setenv("TOY_KEY", key)
        with pytest.raises(EndpointError, match="TOY_KEY holds a line break") as caught:
            ask(server.endpoint(key_variable="TOY_KEY"), "well?", str)
        assert "secr" not in str(caught.value)
    assert not server.requests


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "file:///etc/hosts",
        "",
        "http://",
        "http://a:b/",
        "http://a b/",
        "http://[/",
    ],
)
def test_an_address_that_is_no_http_is_an_error(url):
    with pytest.raises(EndpointError, match="is no http"):
        Endpoint(url, "toy")


def test_synonyms_of_a_language_model(server):
    server.replies = [completion('Sure:\n```json\n["naked", "unclothed"]\n```')]
    assert synonyms.from_endpoint(server.endpoint(), "nude") == ["naked", "unclothed"]
    assert '"nude"' in server.requests[0][2]["messages"][0]["content"]
    server.replies = [completion("[]")]
    assert synonyms.from_endpoint(server.endpoint(), "nude") == []
    server.replies = [completion("[1, 2]")]
    with pytest.raises(EndpointError, match="not a list of words"):
        synonyms.from_endpoint(server.endpoint(), "nude")
