"""A language model behind an OpenAI-compatible endpoint, asked questions whose answers are read as values."""

import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import Field

from dqo.progress import LoggedBar
from dqo.ranges import Count
from dqo.services import Calls, Refused, Service, one_line

log = logging.getLogger(__name__)

THINKING = re.compile(r".*</think>|<think>.*", re.DOTALL)  # the second: cut before its end
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Endpoint(Calls):
    """Where a model is, and how it is asked."""

    base_url: str  # http://HOST:PORT/v1
    model: str  # the name that the endpoint knows it by
    max_tokens: Annotated[Count, Field(examples=[64])]  # of an answer


class Chat:
    """Asks a model; any number of threads may ask. ``counts``: questions asked, requests answered, tokens read and
    written; ``unread``: by question, an answer without a value. ``key``: where the endpoint's settings stand, such as
    ``eval.judge``. ``tells``: whether log lines say how far the questions are.

    Raises ConfigError where the service is not there or refuses the key, which is $OPENAI_API_KEY.
    """

    def __init__(self, endpoint: Endpoint, *, key: str, temperature: float = 0.0, tells: bool = True):
        self.endpoint, self._key, self._temperature, self._tells = endpoint, key, temperature, tells
        advice = {404: f"type {key}.model=NAME, and {key}.base_url=http://HOST:PORT/v1"}
        self.service = Service(
            [endpoint.base_url], endpoint, key=f"{key}.base_url", stage=key, token="OPENAI_API_KEY", advice=advice
        )
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.unread: dict[str, str] = {}
        self._warn_unless_listed(self.service.probe("/models"))

    def ask(
        self,
        questions: Sequence[str],
        *,
        read: Callable[[str], T | None],
        again: str,
        answered: Callable[[str, T | None], None],
    ) -> None:
        """Asks each question, several at a time, and hands (question, value) to ``answered`` in this thread, as
        answers come.

        ``read`` takes the value from an answer; None: it gives none, and ``again`` is asked once. Raises ServiceError
        where the service fails for good.
        """
        asked = {self.service.submit(self._answer, question, read, again): question for question in questions}
        try:
            with LoggedBar(total=len(questions), desc=self._key, unit="questions") as bar:
                for done in as_completed(asked):
                    answered(asked[done], done.result())
                    bar.update(self._tells)
        finally:
            for each in asked:
                each.cancel()

    def _answer(self, question: str, read: Callable[[str], T | None], again: str) -> T | None:
        """The value of the answer; None if there is none when asked twice, or if the question is too long."""
        messages = [{"role": "user", "content": question}]
        self._count({"asked": 1})
        said = self._reply(messages)
        if said and read(said) is None:
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": again}]
        value = read(said)
        if value is None:
            said = self._reply(messages)
            value = read(said)
        if value is None:
            self.unread[question] = said
        return value

    def _reply(self, messages: list[dict[str, str]]) -> str:
        """What the model says; empty where its answer is not in OpenAI's form."""
        body = {
            "model": self.endpoint.model, "messages": messages, "temperature": self._temperature,
            "max_tokens": self.endpoint.max_tokens,
        }  # fmt: skip
        try:
            reply: Any = self.service.post(json.dumps(body).encode(), json.loads, path="/chat/completions")
        except Refused as refused:
            if refused.status == 400 and "context" in refused.said.lower():
                return f"[{refused.said}]"
            raise
        usage = reply.get("usage") if isinstance(reply, dict) else None
        tokens = {"tokens read": "prompt_tokens", "tokens written": "completion_tokens"}
        self._count({"requests": 1, **{name: _whole(usage, field) for name, field in tokens.items()}})
        try:
            said = reply["choices"][0]["message"]["content"]
        except (TypeError, LookupError):
            return ""
        return said if isinstance(said, str) else ""

    def _count(self, counts: dict[str, int]) -> None:
        with self._lock:
            self.counts.update(counts)

    def _warn_unless_listed(self, models: bytes | None) -> None:
        """Warn of a model that is not in the service's list, if it has one."""
        try:
            names = [str(model["id"]) for model in json.loads(models or b"")["data"]]
        except (ValueError, TypeError, LookupError):
            return
        if names and self.endpoint.model not in names:
            listed = one_line(", ".join(names))
            log.warning("%s.model=%s is not among the service's models: %s", self._key, self.endpoint.model, listed)


def value_in_a_line(answer: str, *, labelled: re.Pattern[str], bare: re.Pattern[str]) -> str | None:
    """The first group of the line that matches ``labelled``, or of an only line that matches ``bare``; None: without
    one, or with several that differ. What a model thinks aloud before its answer is left out, also where it was cut."""
    lines = [line for line in THINKING.sub("", answer).splitlines() if line.strip()]
    found = {match[1].lower() for line in lines if (match := labelled.fullmatch(line))}
    if not found and len(lines) == 1 and (match := bare.fullmatch(lines[0])):
        found = {match[1].lower()}
    return found.pop() if len(found) == 1 else None


def _whole(usage: Any, field: str) -> int:
    """A count of tokens in an untrusted answer; 0 where there is none."""
    value = usage.get(field) if isinstance(usage, dict) else None
    return value if isinstance(value, int) else 0
