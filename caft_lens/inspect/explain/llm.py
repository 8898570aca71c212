"""Who is asked for explanations and judgements: any OpenAI-compatible endpoint, or a model that is here.

What is asked for are texts (`ask`, `asking`) or the probabilities of a few answers (`option_scores`). The key stays in
the environment: it is read when a request leaves and written nowhere.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from urllib.parse import urlsplit

import numpy as np

from caft_lens._support.arguments import count, not_negative, positive
from caft_lens._support.errors import BadArgument, CaftLensError
from caft_lens._support.errors import EndpointError as EndpointError
from caft_lens._support.files import Count, Json, Record, absolute, read_record, sha256, write_json
from caft_lens._support.progress import progress as progress_bar
from caft_lens._support.redaction import HIDDEN, is_secret, redact
from caft_lens.model.lens import Lens, load
from caft_lens.model.options import OptionScores
from caft_lens.text.documents import Message, Text, Texts, shorten

if TYPE_CHECKING:
    import openai

Conversation = Sequence[Mapping[str, str]]
"""Messages, `{"role": "user" or "assistant", "content": ...}`, the last of which waits for an answer."""

CHARACTERS_A_TOKEN = 4
"""Of English, about: for the estimate of what a request costs."""
TOP = 20
"""How many tokens an endpoint tells the log-probabilities of; more than that OpenAI's does not."""


class _Used(Record):
    prompt_tokens: Count
    completion_tokens: Count


class _Kept(Record):
    """A request and its answer, as one file of the cache; `first` where log-probabilities were asked for."""

    address: str
    request: Json
    content: str
    usage: _Used
    first: dict[str, float] | None = None


@dataclass(frozen=True)
class _Said:
    """An answer, and where they were asked for the log-probabilities of the tokens that it could have begun with."""

    content: str
    first: Mapping[str, float] | None = None


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

    def __add__(self, other: Plan) -> Plan:
        """Both, one after the other."""
        name = self.name if self.name == other.name else f"{self.name} and {other.name}"
        costs = [plan.cost for plan in (self, other) if plan.requests]
        cost = None if None in costs else sum(one for one in costs if one is not None)
        read, wrote = self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens
        return Plan(name, self.requests + other.requests, self.cached + other.cached, read, wrote, cost)


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

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_lock": None}  # a lock goes to no other process

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=Lock())


class LLM(Protocol):
    """Who can be asked: an `Endpoint`, a `LocalModel`, or anything with these."""

    @property
    def name(self) -> str:
        """What to call it in tables."""

    def ask(self, conversations: Sequence[Conversation]) -> list[str]:
        """The answers, in order; `""` where there is none."""

    def plan(self, conversations: Sequence[Conversation]) -> Plan:
        """What would be asked, without asking."""


class Rater(LLM, Protocol):
    """Who can judge answers: an `Endpoint`, a `LocalModel`, or anything with these and those of an `LLM`."""

    @property
    def identity(self) -> str:
        """What decides what it says."""

    @property
    def is_remote(self) -> bool:
        """Whether it answers elsewhere, so that other work can be done here meanwhile."""

    def asking(self, conversations: Sequence[Conversation]) -> Iterator[tuple[int, str]]:
        """The number of each conversation with its answer, as they come."""

    def option_scores(
        self, conversations: Sequence[Conversation], options: Sequence[Sequence[str]]
    ) -> Iterator[tuple[int, OptionScores]]:
        """The number of each conversation with the probability of each of its options as the answer, as they come."""

    def plan(self, conversations: Sequence[Conversation], *, options: bool = False) -> Plan:
        """What would be asked, without asking; `options`: for their scores."""


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
    is_remote: ClassVar[bool] = True

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

    @property
    def identity(self) -> str:
        """What decides what it says: address, model, and how it is asked."""
        return _hash(self.address, self._public(self.request([])))

    def plan(self, conversations: Sequence[Conversation], *, options: bool = False) -> Plan:
        """What would be asked, with an estimate of tokens and cost. Nothing is sent, no key is needed.

        Args:
            conversations: What.
            options: Whether for `option_scores`.
        """
        if options:
            return self._for_options().plan(conversations)
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
        answers = dict(self.asking(conversations))
        return [answers[number] for number in range(len(conversations))]

    def asking(self, conversations: Sequence[Conversation]) -> Iterator[tuple[int, str]]:
        """As `ask`, each answer with the number of its conversation as soon as it is there."""
        for number, said in self._answers(conversations):
            yield number, said.content

    def option_scores(
        self, conversations: Sequence[Conversation], options: Sequence[Sequence[str]]
    ) -> Iterator[tuple[int, OptionScores]]:
        """The probability of each option as the answer, from the log-probabilities of the first token.

        Only the 20 most probable tokens are told; an option that is none of them has probability 0. White space around
        a token and case do not count. A word of several tokens is known by its first one, where no other option begins
        so; a number has to be one token, as those up to 999 are for OpenAI's models and Llama 3.

        Args:
            conversations: What is asked.
            options: Words or whole numbers, of each conversation.

        Returns:
            The number of each conversation with its scores, as they come.

        Raises:
            EndpointError: As `ask`; without log-probabilities; for a model that writes numbers digit by digit.

        Source:
            Betley et al., "Emergent misalignment" (arXiv 2502.17424): one token, temperature 0, 20 log-probabilities.
        """
        for number, said in self._for_options()._answers(conversations):
            yield number, self._scored(said, options[number])

    def _for_options(self) -> Endpoint:
        """The same one, asked for the log-probabilities of the first token; a second one shows if a number goes on."""
        asked: dict[str, Any] = {"logprobs": True, "top_logprobs": TOP}
        if self.options.get("max_completion_tokens") is not None:
            asked["max_completion_tokens"] = 2
        return replace(self, max_tokens=2, options={**self.options, **asked})

    def _scored(self, said: _Said, options: Sequence[str]) -> OptionScores:
        if not said.first:
            raise EndpointError(
                f'{self.address} gave no log-probabilities of "{self.model}": ask for a number in words instead, '
                f"cl.judges.number(...), or ask a model that gives them."
            )
        first, text = said.first, said.content.strip()
        begun = max(first, key=first.__getitem__).strip()
        goes_on = begun.isdigit() and text.startswith(begun) and text[len(begun) :][:1].isdigit()
        if goes_on and any(one.isdigit() for one in options):
            raise EndpointError(
                f'"{self.model}" writes numbers digit by digit ({text!r}), so the probabilities of one '
                f"token are not those of numbers: ask for a number in words, cl.judges.number(...), or a LocalModel."
            )
        found = dict.fromkeys(options, 0.0)
        for token, log in first.items():
            if (option := _option_of(token, options)) is not None:
                found[option] += math.exp(log)
        return OptionScores({option: math.log(share) if share else -math.inf for option, share in found.items()})

    def _answers(self, conversations: Sequence[Conversation]) -> Iterator[tuple[int, _Said]]:
        """What was said, of the cache first, and then as it comes."""
        places: dict[str, list[int]] = {}
        missing: dict[str, Mapping[str, Any]] = {}
        for number, conversation in enumerate(conversations):
            body = self.request(conversation)
            key = _hash(self.address, self._public(body))
            places.setdefault(key, []).append(number)
            missing.setdefault(key, body)
        for key in list(missing):
            if (kept := self._kept(missing[key])) is not None:
                self.usage.add(cached=1)
                del missing[key]
                yield from ((number, kept) for number in places[key])
        for key, said in self._asked(missing) if missing else ():
            yield from ((number, said) for number in places[key])

    def _asked(self, bodies: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, _Said]]:
        """Ask, a few at a time; at the first error what has not left is not sent."""
        import openai

        headers = self._headers()
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
            came, failed = as_completed(waiting), None
            try:
                for done in progress_bar(came, total=len(waiting), desc=f"asking {self.model}", unit="request"):
                    failed = done.exception()
                    if failed is not None:
                        break
                    yield waiting.pop(done), done.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
            if failed is not None:
                for other, number in waiting.items():  # what came at the same time is not lost
                    if other.done() and not other.cancelled() and other.exception() is None:
                        yield number, other.result()
                raise failed

    def _one(self, client: openai.OpenAI, headers: Mapping[str, Any], body: Mapping[str, Any]) -> _Said:
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
            return _Said(str(reply["content"]), reply.get("first"))
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

    def _kept(self, body: Mapping[str, Any]) -> _Said | None:
        file = self._file(body)
        if file is None or not file.is_file():
            return None
        try:
            kept = read_record(file, _Kept, "an answer of the cache")
        except CaftLensError as error:  # damaged by other means than ours, which are atomic
            warnings.warn(f"{error} It is asked for again.", stacklevel=2)
            return None
        same = kept.request == self._public(body) and kept.address == self.address
        return _Said(kept.content, kept.first) if same else None

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
        choice = body["choices"][0]
        content = choice["message"].get("content")
        used = body.get("usage") or {}
        usage = {name: int(used.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}
        tokens = (choice.get("logprobs") or {}).get("content") or ()
        first: dict[str, float] = {}
        for one in tokens[0]["top_logprobs"] if tokens else ():
            token, log = str(one["token"]), float(one["logprob"])
            if math.isfinite(log):  # some tell tokens of probability 0, and some bytes that look alike
                first[token] = float(np.logaddexp(first.get(token, -math.inf), log))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return {
        "content": content if isinstance(content, str) else "",
        "usage": usage,
        **({"first": first} if first else {}),
    }


def _spellings(option: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((option, option.lower(), option.capitalize(), option.upper())))


def _option_of(token: str, options: Sequence[str]) -> str | None:
    """Which option a first token stands for: one that it is, or the only word that it begins."""
    word = token.strip().casefold()
    same = [one for one in options if one.casefold() == word]
    begun = same or [one for one in options if word and not one.isdigit() and one.casefold().startswith(word)]
    return begun[0] if len(begun) == 1 else None


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
    is_remote: ClassVar[bool] = False

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

    @property
    def identity(self) -> str:
        """What decides what it says: its weights, how it reads, how much it may say."""
        return sha256(str(self.lens.fingerprint), str(self.lens.reading), str(self.max_tokens))

    def plan(self, conversations: Sequence[Conversation], *, options: bool = False) -> Plan:
        """What would be asked, with the exact number of tokens.

        Args:
            conversations: What.
            options: Whether for `option_scores`, which writes nothing.
        """
        read = sum(len(item.input_ids) for item in self._encoded(conversations))
        requests = tuple({"messages": [dict(message) for message in one]} for one in conversations)
        return Plan(self.name, requests, 0, read, 0 if options else self.max_tokens * len(requests))

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

    def asking(self, conversations: Sequence[Conversation]) -> Iterator[tuple[int, str]]:
        """As `ask`, a batch at a time, each answer with the number of its conversation."""
        for start in range(0, len(conversations), self.batch_size):
            yield from enumerate(self.ask(conversations[start : start + self.batch_size]), start)

    def option_scores(
        self, conversations: Sequence[Conversation], options: Sequence[Sequence[str]]
    ) -> Iterator[tuple[int, OptionScores]]:
        """The probability of each option as the answer, whatever tokens it is made of; nothing is sampled.

        Words count in small letters, capitalised, and in capitals. Of an option that begins another, such as "8" and
        "80" for a model that writes digit by digit, what the longer ones have is taken off.

        Args:
            conversations: What is asked.
            options: Words or whole numbers, of each conversation.

        Returns:
            The number of each conversation with its scores, a batch at a time.
        """
        from caft_lens.model.scoring import option_scores

        spelt = [{one: _spellings(one) for one in some} for some in options]
        for start in range(0, len(conversations), self.batch_size):
            part = conversations[start : start + self.batch_size]
            read = sum(len(item.input_ids) for item in self._encoded(part))
            every = [list(dict.fromkeys(chain(*one.values()))) for one in spelt[start : start + self.batch_size]]
            scored = option_scores(self.lens, list(map(self.text, part)), every, nested=True)
            self.usage.add(requests=len(part), prompt_tokens=read)
            for number, one in enumerate(scored, start):
                logs = one.log_probabilities
                of = {o: np.logaddexp.reduce([logs[form] for form in forms]) for o, forms in spelt[number].items()}
                yield number, OptionScores({option: float(log) for option, log in of.items()})

    def _encoded(self, conversations: Sequence[Conversation]) -> list[Any]:
        from caft_lens.model.generation import encode_prompts

        return encode_prompts(self.lens, Texts(map(self.text, conversations)), None)
