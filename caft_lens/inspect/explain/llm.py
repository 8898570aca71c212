"""Who is asked for explanations and judgements: any OpenAI-compatible endpoint, or a model that is here.

The key stays in the environment: it is read when a request leaves and written nowhere.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from caft_lens._support.arguments import count, not_negative, positive
from caft_lens._support.errors import BadArgument, CaftLensError
from caft_lens._support.errors import EndpointError as EndpointError
from caft_lens._support.files import Count, Json, Record, absolute, read_record, sha256, write_json
from caft_lens._support.progress import progress as progress_bar
from caft_lens._support.redaction import HIDDEN, is_secret, redact
from caft_lens.model.lens import Lens, load
from caft_lens.text.documents import Message, Text, Texts, shorten

if TYPE_CHECKING:
    import openai

Conversation = Sequence[Mapping[str, str]]
"""Messages, `{"role": "user" or "assistant", "content": ...}`, the last of which waits for an answer."""

CHARACTERS_A_TOKEN = 4
"""Of English, about: for the estimate of what a request costs."""


class _Used(Record):
    prompt_tokens: Count
    completion_tokens: Count


class _Kept(Record):
    """A request and its answer, as one file of the cache."""

    address: str
    request: Json
    content: str
    usage: _Used


@dataclass(frozen=True)
class Plan:
    """What would be asked: nothing was sent.

    Attributes:
        name: Who would be asked.
        requests: Each request in full, as it would be sent.
        cached: How many of them are answered already.
        prompt_tokens: Of the others, estimated.
        completion_tokens: The most that they may answer with.
        cost: The most that this costs, in the currency of the prices; `None` without prices.
    """

    name: str
    requests: tuple[Mapping[str, Any], ...]
    cached: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None = None

    def __str__(self) -> str:
        price = "" if self.cost is None else f", at most {self.cost:.4g} to pay"
        return (
            f"{len(self.requests)} requests to {self.name}, {self.cached} of them answered already; about "
            f"{self.prompt_tokens} tokens to read, at most {self.completion_tokens} to write{price}. Nothing was sent."
        )

    __repr__ = __str__


@dataclass
class Usage:
    """What was used so far.

    Attributes:
        requests: Answered by the endpoint or model.
        cached: Answered from the cache, for nothing.
        retried: Tries that failed and were repeated.
        prompt_tokens, completion_tokens: As the endpoint counted them.
    """

    requests: int = 0
    cached: int = 0
    retried: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    _lock: Any = field(default_factory=Lock, repr=False, compare=False)

    def add(self, **counts: int) -> None:
        """Count; from any thread."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


class LLM(Protocol):
    """Who can be asked: an `Endpoint`, a `LocalModel`, or anything with these."""

    @property
    def name(self) -> str:
        """What to call it in tables."""

    def ask(self, conversations: Sequence[Conversation]) -> list[str]:
        """The answers, in order; `""` where there is none."""

    def plan(self, conversations: Sequence[Conversation]) -> Plan:
        """What would be asked, without asking."""


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible chat-completions endpoint.

    What it is asked holds windows of your texts, which leave this computer: `dry_run=True` shows them first.

    Args:
        url: Its base, such as `"https://api.openai.com/v1"` or `"http://localhost:8000/v1"`; without any key in it.
        model: Which of its models.
        key_env: The environment variable that holds the key; `None` where none is needed. The key is sent to `url` as a
            bearer token and goes nowhere else.
        headers_env: An environment variable with further headers, one `Name: value` a line, such as
            `"OPENAI_CUSTOM_HEADERS"`, which is not sent unless it is named here: it may hold another endpoint's key.
        max_tokens: How long an answer may be.
        temperature: 0 for the likeliest answer.
        options: Further fields of the request, or other values of these; `None` leaves a field out. Models that reason
            want `{"max_tokens": None, "max_completion_tokens": 2000, "temperature": None}`.
        timeout: Seconds to wait for an answer.
        retries: How often to try again after a time-out, a lost connection, or a status that passes (408, 409, 429, 500
            and above), waiting 0.5 to 8 seconds, or as long as the server says; more than two minutes ends the run.
        concurrency: How many requests are under way at once.
        cache: A folder with one JSON file per request and answer; `None` keeps none.
        prices: For a million tokens read and a million written, in any currency.

    Raises:
        ValueError: For an address that is none, or that holds a name and password.

    Attributes:
        usage: What was used so far.

    Example:
        >>> llm = Endpoint("https://api.openai.com/v1", "gpt-4.1-mini", prices=(0.4, 1.6))
        >>> llm.name, llm.cost
        ('gpt-4.1-mini', 0.0)
        >>> plan = cl.inspect.explain_with(llm, contexts, dry_run=True)
        >>> len(plan.requests)
        12
    """

    url: str
    model: str
    key_env: str | None = "OPENAI_API_KEY"
    headers_env: str | None = field(default=None, kw_only=True)
    max_tokens: int = 300
    temperature: float | None = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 60.0
    retries: int = 5
    concurrency: int = 4
    cache: str | Path | None = Path("runs/llm")
    prices: tuple[float, float] | None = None
    usage: Usage = field(default_factory=Usage, compare=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadArgument('Expected the address of an endpoint, such as "https://api.openai.com/v1".')
        if parts.username or parts.password or parts.query or parts.fragment:
            raise BadArgument(
                f"The address of the endpoint at {parts.hostname} holds a name, password or query. Keys belong into "
                f"the environment variable of key_env=; nothing else may follow the path."
            )
        count(self.retries, "retries", least=0)
        count(self.concurrency, "concurrency")
        positive(self.timeout, "timeout")
        count(self.max_tokens, "max_tokens")
        if self.temperature is not None:
            not_negative(self.temperature, "temperature")
        for price in self.prices or ():
            not_negative(price, "prices")
        if self.cache is not None:  # it stays there when the working directory changes
            object.__setattr__(self, "cache", absolute(self.cache))

    @property
    def name(self) -> str:
        """The model."""
        return self.model

    @property
    def address(self) -> str:
        """Where requests go."""
        base = self.url.rstrip("/")
        return base if base.endswith("/chat/completions") else f"{base}/chat/completions"

    @property
    def cost(self) -> float | None:
        """What was paid so far, by `prices`; `None` without."""
        return self._price(self.usage.prompt_tokens, self.usage.completion_tokens)

    def request(self, conversation: Conversation) -> dict[str, Any]:
        """The body of a request, exactly as it is sent."""
        body = {
            "model": self.model,
            "messages": [dict(message) for message in conversation],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            **self.options,
        }
        return {name: value for name, value in body.items() if value is not None}

    def plan(self, conversations: Sequence[Conversation]) -> Plan:
        """What would be asked, with an estimate of tokens and cost. Nothing is sent, no key is needed."""
        bodies = [self.request(one) for one in conversations]
        new = [body for body in bodies if self._kept(body) is None]
        lengths = (sum(len(message["content"]) for message in body["messages"]) for body in new)
        read = sum(math.ceil(length / CHARACTERS_A_TOKEN) for length in lengths)
        limits = (body.get("max_completion_tokens") or body.get("max_tokens") or self.max_tokens for body in new)
        wrote = int(max(limits, default=0)) * len(new)
        requests, cost = tuple(map(self._public, bodies)), self._price(read, wrote)
        return Plan(f"{self.model} at {self.address}", requests, len(bodies) - len(new), read, wrote, cost)

    def ask(self, conversations: Sequence[Conversation]) -> list[str]:
        """Ask, a few at a time; answers in order, `""` where the model said nothing.

        Raises:
            EndpointError: When the key is missing, or a request was refused or failed more often than `retries`, saying
                what to do. Answers that came before are in the cache.
        """
        bodies = [self.request(one) for one in conversations]
        unique = {_hash(self.address, self._public(body)): body for body in bodies}
        kept = {number: self._kept(body) for number, body in unique.items()}
        answers = {number: answer for number, answer in kept.items() if answer is not None}
        self.usage.add(cached=len(answers))
        missing = {number: body for number, body in unique.items() if number not in answers}
        if missing:
            answers |= self._asked(missing)
        return [answers[_hash(self.address, self._public(body))] for body in bodies]

    def _asked(self, bodies: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """Ask, a few at a time; at the first error what has not left is not sent."""
        import openai

        answers, headers = {}, self._headers()
        client = openai.OpenAI(
            api_key="in the headers of each request",
            base_url=self.address.removesuffix("/chat/completions"),
            timeout=self.timeout,
            max_retries=self.retries,
            # A redirection would take the texts to an address that nobody named.
            http_client=openai.DefaultHttpxClient(follow_redirects=False),
        )
        client._custom_headers = self._named_headers()  # the client would take those of OPENAI_CUSTOM_HEADERS
        with client:
            pool = ThreadPoolExecutor(self.concurrency)
            waiting = {pool.submit(self._one, client, headers, body): number for number, body in bodies.items()}
            came = as_completed(waiting)
            try:
                for done in progress_bar(came, total=len(waiting), desc=f"asking {self.model}", unit="request"):
                    answers[waiting[done]] = done.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        return answers

    def _one(self, client: openai.OpenAI, headers: Mapping[str, Any], body: Mapping[str, Any]) -> str:
        """The answer to one request, which is kept."""
        for _ in range(self.retries + 1):
            response = self._sent(client, headers, body)
            reply = _reply(response)
            if reply is None:
                self.usage.add(retried=1)
                continue
            for value in self._values():
                reply["content"] = reply["content"].replace(value, HIDDEN)
            if (file := self._file(body)) is not None:
                write_json(file, {"address": self.address, "request": self._public(body), **reply})
            self.usage.add(requests=1, **reply["usage"])
            return str(reply["content"])
        raise self._error(f"answered something that is no chat completion{self._quoted(response)}")

    def _sent(self, client: openai.OpenAI, headers: Mapping[str, Any], body: Mapping[str, Any]) -> str:
        """What was answered to one request."""
        import openai

        further = {name: value for name, value in body.items() if name not in ("model", "messages")}
        try:
            response = client.chat.completions.with_raw_response.create(
                model=body["model"], messages=body["messages"], extra_body=further, extra_headers=headers
            )
        # What they quote may hold what was sent, and a chained exception would show it: only their kind is told.
        except openai.APITimeoutError as error:
            raise self._failed(error, f"did not answer within {self.timeout:g} seconds") from None
        except openai.APIStatusError as error:
            said = error.response
            wait = said.headers.get("retry-after")
            waiting = f", asking to wait {wait} seconds" if wait else ""
            what = f"answered {said.status_code} {said.reason_phrase}{waiting}"
            raise self._failed(error, what, said.text, said.status_code) from None
        except openai.APIConnectionError as error:
            raise self._failed(error, f"could not be reached ({type(error.__cause__).__name__})") from None
        self.usage.add(retried=response.retries_taken)
        return response.text

    def _failed(self, error: openai.APIError, what: str, said: str = "", status: int | None = None) -> EndpointError:
        """Who was asked, what happened, after how many tries, and what to do about it."""
        retries = int(error.request.headers.get("x-stainless-retry-count", 0))
        self.usage.add(retried=retries)
        tries = f", after {retries + 1} tries" if retries else ""
        return self._error(f"{what}{tries}{self._quoted(said)}", status)

    def _error(self, what: str, status: int | None = None) -> EndpointError:
        advice = {
            401: f"Is the key in {self.key_env} right, and for this address?",
            403: f"Is the key in {self.key_env} right, and for this address and model?",
            404: f'Are the address and the model "{self.model}" right?',
            400: f'Does "{self.model}" take the fields of the request? Change or leave out some with options=.',
        }
        later = "Ask again later: answers that came are in the cache."
        otherwise = f"{later} A larger timeout=, more retries= or less concurrency= may help."
        return EndpointError(self._without_key(f"{self.address} {what}. {advice.get(status or 0, otherwise)}"))

    def _quoted(self, text: str) -> str:
        return f": {shorten(self._without_key(' '.join(text.split())), 300)}" if text.strip() else ""

    # -- the key ------------------------------------------------------------------------------------------------------

    def _key(self) -> str | None:
        return os.environ.get(self.key_env, "").strip() or None if self.key_env else None

    def _headers(self) -> dict[str, str | openai.Omit]:
        """What a request carries of the environment: the key, and nothing that OpenAI's client takes by itself."""
        import openai

        key, nothing = self._checked_key(), openai.Omit()
        return {
            "Authorization": nothing if key is None else f"Bearer {key}",
            "OpenAI-Organization": nothing,
            "OpenAI-Project": nothing,
        }

    def _named_headers(self) -> dict[str, str]:
        """Those of the environment variable that was named."""
        lines = os.environ.get(self.headers_env, "").splitlines() if self.headers_env else []
        pairs = (line.partition(":") for line in lines if ":" in line)
        return {name.strip(): value.strip() for name, _, value in pairs}

    def _checked_key(self) -> str | None:
        """The key, of which a warning says where it would be read on the way."""
        if self.key_env is None:
            return None
        key = self._key()
        if key is None:
            raise EndpointError(
                f"The environment variable {self.key_env} holds no key for {self.address}: set it before starting "
                f"Python, or give key_env= another name, or None where no key is needed."
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise EndpointError(
                f"What {self.key_env} holds is no key: it has spaces, line breaks or other characters that none has."
            )
        host = urlsplit(self.url).hostname or ""
        if urlsplit(self.url).scheme == "http" and not _is_here(host):
            warnings.warn(
                f"The key in {self.key_env} is sent to {host} without encryption: everyone on the way can read it. "
                f"Use https://, or key_env=None where no key is needed.",
                stacklevel=5,
            )
        return key

    def _values(self) -> list[str]:
        """The secrets that go along with a request."""
        hidden = [value for name, value in self.options.items() if is_secret(name) and isinstance(value, str)]
        return [key for key in (self._key(), *self._named_headers().values(), *hidden) if key]

    def _without_key(self, text: str) -> str:
        return redact(text, known=self._values())

    def _public(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request as it may be shown and kept: what `options` add to it without secrets."""
        added = {name: value for name, value in body.items() if name in self.options}
        return {**body, **redact(added, known=self._values())}

    # -- the cache ----------------------------------------------------------------------------------------------------

    def _file(self, body: Mapping[str, Any]) -> Path | None:
        return None if self.cache is None else Path(self.cache) / f"{_hash(self.address, self._public(body))}.json"

    def _kept(self, body: Mapping[str, Any]) -> str | None:
        file = self._file(body)
        if file is None or not file.is_file():
            return None
        try:
            kept = read_record(file, _Kept, "an answer of the cache")
        except CaftLensError as error:  # damaged by other means than ours, which are atomic
            warnings.warn(f"{error} It is asked for again.", stacklevel=2)
            return None
        return kept.content if kept.request == self._public(body) and kept.address == self.address else None

    def _price(self, read: int, wrote: int) -> float | None:
        return None if self.prices is None else (read * self.prices[0] + wrote * self.prices[1]) / 1e6


def _is_here(host: str) -> bool:
    """Whether a host is this computer."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _hash(address: str, body: Mapping[str, Any]) -> str:
    return sha256(address, json.dumps(body, sort_keys=True))


def _reply(text: str) -> dict[str, Any] | None:
    """What was said and what it cost; `None` when the text is no chat completion."""
    try:
        body = json.loads(text)
        content = body["choices"][0]["message"].get("content")
        used = body.get("usage") or {}
        usage = {name: int(used.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return {"content": content if isinstance(content, str) else "", "usage": usage}


@dataclass(frozen=True)
class LocalModel:
    """A Hugging Face model that is here, asked greedily.

    Args:
        model: A lens, a model in memory, or whatever `load` takes.
        tokenizer: That of a model in memory; a lens has its own.
        max_tokens: How long an answer may be.
        batch_size: How many conversations run at once.

    Attributes:
        usage: What was used so far.

    Raises:
        ValueError: When there is no tokenizer.

    Example:
        >>> llm = LocalModel("Qwen/Qwen3-4B-Instruct-2507")            # doctest: +SKIP
        >>> cl.inspect.explain_with(llm, contexts)["L1.pc1"].top.text  # doctest: +SKIP
    """

    model: Any
    tokenizer: Any = None
    max_tokens: int = 300
    batch_size: int = 8
    usage: Usage = field(default_factory=Usage, compare=False)

    def __post_init__(self) -> None:
        lens = self.model if isinstance(self.model, Lens) else load(self.model, tokenizer=self.tokenizer)
        lens.need_tokenizer()
        count(self.max_tokens, "max_tokens")
        count(self.batch_size, "batch_size")
        object.__setattr__(self, "model", lens)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.lens.name

    @property
    def lens(self) -> Lens:
        """The model."""
        return self.model

    def text(self, conversation: Conversation) -> Text:
        """A conversation as the model reads it; one paragraph a message where its tokenizer knows no chats."""
        if self.lens.need_tokenizer().chat_template:
            return Text(tuple(Message(message["role"], message["content"]) for message in conversation))
        return Text(text="\n\n".join(message["content"] for message in conversation) + "\n\n")

    def plan(self, conversations: Sequence[Conversation]) -> Plan:
        """What would be asked, with the exact number of tokens."""
        read = sum(len(item.input_ids) for item in self._encoded(conversations))
        requests = tuple({"messages": [dict(message) for message in one]} for one in conversations)
        return Plan(self.name, requests, 0, read, self.max_tokens * len(requests))

    def ask(self, conversations: Sequence[Conversation]) -> list[str]:
        """Ask; answers in order.

        Raises:
            ValueError: When a conversation and its answer do not fit into the model.
        """
        if not conversations:
            return []
        answers = self.lens.generate(
            Texts(map(self.text, conversations)),
            max_new_tokens=self.max_tokens,
            temperature=0.0,
            batch_size=self.batch_size,
            return_type="tokens",
        )
        self.usage.add(
            requests=len(answers),
            prompt_tokens=sum(len(item.input_ids) for item in self._encoded(conversations)),
            completion_tokens=sum(map(len, answers)),
        )
        return [self.lens.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]

    def _encoded(self, conversations: Sequence[Conversation]) -> list[Any]:
        from caft_lens.model.generation import encode_prompts

        return encode_prompts(self.lens, Texts(map(self.text, conversations)), None)
