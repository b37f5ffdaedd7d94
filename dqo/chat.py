"""A language model behind an OpenAI-compatible endpoint, asked questions whose answers are read as values."""

import asyncio
import importlib.util
import logging
import os
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from pydantic import Field

from dqo.errors import ConfigError, StageError
from dqo.progress import LoggedBar
from dqo.ranges import Count, CountOrZero, Seconds

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAIError

log = logging.getLogger(__name__)

THINKING = re.compile(r".*</think>", re.DOTALL)
PROBE_SECONDS = 10.0  # for the service to show that it is there
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a model is, and how it is asked."""

    base_url: str  # http://HOST:PORT/v1
    model: str  # the name that the endpoint knows it by
    concurrency: Annotated[Count, Field(examples=[8])]  # requests at a time
    retries: CountOrZero  # of a failed request
    timeout: Seconds  # of a request
    max_tokens: Annotated[Count, Field(examples=[64])]  # of an answer


class Chat:
    """Asks at temperature 0. ``counts``: questions asked, tokens read and written; ``unread``: answers without a value.
    ``key``: where the endpoint's settings stand, such as ``eval.judge``.

    Raises ConfigError where the package openai is missing, the service is not there or refuses the key.
    """

    def __init__(self, endpoint: Endpoint, *, key: str):
        self.endpoint, self._key = endpoint, key
        if not importlib.util.find_spec("openai"):
            raise ConfigError(f"{key}.base_url asks for the package openai; type pip install 'dqo-rl[judge]'")
        if not endpoint.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"{key}.base_url={endpoint.base_url}: no URL; type {key}.base_url=http://HOST:PORT/v1")
        self.counts: Counter[str] = Counter()
        self.unread: list[str] = []
        asyncio.run(self._probe())

    def ask(
        self,
        questions: Sequence[str],
        *,
        read: Callable[[str], T | None],
        again: str,
        answered: Callable[[str, T | None], None],
    ) -> None:
        """Asks each question, several at a time, and hands (question, value) to ``answered`` as answers come.

        ``read`` takes the value from an answer; None: it gives none, and ``again`` is asked once. Raises StageError
        where the service fails for good.
        """
        if questions:
            asyncio.run(self._ask_all(questions, read, again, answered))

    async def _ask_all(self, questions: Sequence[str], read: Any, again: str, answered: Any) -> None:
        gate = asyncio.Semaphore(self.endpoint.concurrency)
        with LoggedBar(total=len(questions), desc=self._key, unit="questions") as bar:
            async with self._client() as client:

                async def ask(question: str) -> None:
                    async with gate:
                        answered(question, await self._answer(client, question, read, again))
                    bar.update()

                await asyncio.gather(*map(ask, questions))

    async def _answer(
        self, client: "AsyncOpenAI", question: str, read: Callable[[str], T | None], again: str
    ) -> T | None:
        """The value of the answer; None if there is none when asked twice, or if the question is too long."""
        messages = [{"role": "user", "content": question}]
        self.counts["asked"] += 1
        said = await self._reply(client, messages)
        if said and read(said) is None:
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": again}]
        value = read(said)
        if value is None:
            said = await self._reply(client, messages)
            value = read(said)
        if value is None:
            self.unread.append(said)
        return value

    async def _reply(self, client: "AsyncOpenAI", messages: list[dict[str, str]]) -> str:
        """What the model says; empty where that is nothing that can be read. The client itself waits longer and longer
        between its tries."""
        import openai

        try:
            reply: Any = await client.chat.completions.create(
                model=self.endpoint.model,
                messages=cast(Any, messages),
                temperature=0.0,
                max_tokens=self.endpoint.max_tokens,
            )
            said = reply.choices[0].message.content or ""
        except openai.OpenAIError as error:
            if isinstance(error, openai.BadRequestError) and "context" in str(error).lower():
                return f"[{one_line(error)}]"
            raise StageError(self._key, self._fault(error)) from error
        except (ValueError, AttributeError, TypeError, LookupError):  # an answer that is not in the OpenAI form
            return ""
        if reply.usage:
            self.counts["tokens read"] += reply.usage.prompt_tokens or 0
            self.counts["tokens written"] += reply.usage.completion_tokens or 0
        return said

    async def _probe(self) -> None:
        """Raises ConfigError where nothing answers, or the key is refused, and warns of a model that is not listed."""
        import openai

        try:
            async with self._client().with_options(timeout=PROBE_SECONDS, max_retries=1) as client:
                names = [model.id for model in (await client.models.list()).data or []]
        except (openai.APIConnectionError, openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ConfigError(self._fault(error)) from error
        except (openai.OpenAIError, ValueError, AttributeError, TypeError):  # it has no list
            return
        if names and self.endpoint.model not in names:
            listed = one_line(", ".join(names))
            log.warning("%s.model=%s is not among the service's models: %s", self._key, self.endpoint.model, listed)

    def _client(self) -> "AsyncOpenAI":
        from openai import AsyncOpenAI

        key = os.environ.get("OPENAI_API_KEY") or "none"  # a service of one's own asks for none
        settings = {"max_retries": self.endpoint.retries, "timeout": self.endpoint.timeout}
        return AsyncOpenAI(api_key=key, base_url=self.endpoint.base_url, **cast(Any, settings))

    def _fault(self, error: "OpenAIError") -> str:
        import openai

        key, said = self._key, one_line(error)
        where = f"{key}.base_url={self.endpoint.base_url}"
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return f"{where} refuses the key ({said}); set OPENAI_API_KEY in the environment"
        if isinstance(error, openai.NotFoundError):
            return f"{where} does not know {key}.model={self.endpoint.model} ({said}); type {key}.model=NAME"
        if isinstance(error, openai.APIConnectionError | openai.InternalServerError | openai.RateLimitError):
            return f"{where} does not answer ({said}); start that service, or type another {key}.base_url"
        return f"{where} refuses the question ({said})"


def value_in_a_line(answer: str, *, labelled: re.Pattern[str], bare: re.Pattern[str]) -> str | None:
    """The first group of the line that matches ``labelled``, or of an only line that matches ``bare``; None: without
    one, or with several that differ. What a model thinks aloud before its answer is left out."""
    lines = [line for line in THINKING.sub("", answer).splitlines() if line.strip()]
    found = {match[1].lower() for line in lines if (match := labelled.fullmatch(line))}
    if not found and len(lines) == 1 and (match := bare.fullmatch(lines[0])):
        found = {match[1].lower()}
    return found.pop() if len(found) == 1 else None


def one_line(text: object) -> str:
    """The beginning of an untrusted text on one line; control characters are escaped where it is printed."""
    return textwrap.shorten(str(text), 200, placeholder=" …")
