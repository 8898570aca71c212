"""An OpenAI-compatible endpoint on a loopback port, for tests: it answers as told and remembers what it was asked."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SENTENCE = "EXPLANATION: words about pies"
Reply = tuple[int, dict[str, str], Any]


def completion(content: str | None, **others: Any) -> Reply:
    usage = {"prompt_tokens": 100, "completion_tokens": 7}
    return (
        200,
        {},
        {"choices": [{"message": {"role": "assistant", "content": content}}], "usage": usage, **others},
    )


def tokens(shares: Mapping[str, float], content: str | None = None) -> Reply:
    """A completion with the probabilities of its first token, the likeliest of which it says."""
    said = max(shares, key=shares.__getitem__) if content is None else content
    top = [{"token": token, "logprob": math.log(share), "bytes": None} for token, share in shares.items()]
    first = {"token": said, "logprob": -0.1, "bytes": None, "top_logprobs": top}
    status, headers, body = completion(said)
    body["choices"][0]["logprobs"] = {"content": [first]}
    return status, headers, body


class Stub:
    """A server that answers as told and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.script: list[Reply] = []
        self.otherwise: Callable[[dict[str, Any]], Reply] = lambda body: completion(SENTENCE)
        self.delay = 0.0
        self.paid: list[dict[str, Any]] = []
        """What was answered."""
        self.most_paid = math.inf
        """After as many answers a request waits until the server is closed, and is never answered."""
        self.holds, self.closed = threading.Event(), threading.Event()
        self.inside = self.most_inside = 0
        lock, stub = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    stub.asked.append(body)
                    stub.headers.append({name.lower(): value for name, value in self.headers.items()})
                    stub.paths.append(self.path)
                    stub.inside += 1
                    stub.most_inside = max(stub.most_inside, stub.inside)
                    held = len(stub.paid) >= stub.most_paid
                    if held:
                        stub.holds.set()
                    else:
                        stub.paid.append(body)
                if held:
                    stub.closed.wait()
                    return
                with lock:
                    status, headers, reply = stub.script.pop(0) if stub.script else stub.otherwise(body)
                time.sleep(stub.delay)
                with lock:
                    stub.inside -= 1
                data = reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()
                try:
                    self.send_response(status, headers.pop(":reason", None))
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # the client has gone

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()
