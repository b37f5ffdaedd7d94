"""The HTTP application of ``dqo-serve``."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from dqo.config.schema import ServeConfig
from dqo.errors import ServiceError, StageError
from dqo.records import Rollouts
from dqo.run.serving.batches import Busy, Lane, WorkFailed
from dqo.run.serving.door import RETRY, Door
from dqo.run.serving.forms import EmbeddingReply, EmbeddingRequest, RewardReply, RewardRequest, groups_of, reward_reply
from dqo.run.serving.numbers import Numbers
from dqo.run.serving.page import page
from dqo.run.serving.stages import Encoder, Scorer, embedding_item
from dqo.wire import Group, GroupRewards, ScoreReply, ScoreRequest

Item = TypeVar("Item")
Result = TypeVar("Result")

MIB = 1 << 20
BODIES = 8  # of the greatest length that are in memory at a time
LEFT = 499  # status of an answer that nobody reads any more
DESCRIPTION = (
    "Rewards and embeddings of dqo over HTTP. An error is an object with the key detail. 503: too much waits, try "
    "again after Retry-After seconds; 422: the request is wrong, or one of its completions cannot be judged."
)


def create_app(config: ServeConfig, *, scorer: Scorer | None, encoder: Encoder | None, token: str | None) -> FastAPI:
    """The application; None: this service has no reward, no encoder, asks for no token."""
    stages = {"reward": scorer and scorer.reward, "embed": encoder and encoder.embed}
    numbers, lanes = Numbers(stages), []

    @asynccontextmanager
    async def working(app: FastAPI) -> AsyncIterator[None]:
        workers = [asyncio.create_task(lane.run()) for lane in lanes]
        yield
        for worker in workers:
            worker.cancel()

    app = FastAPI(title="dqo-serve", description=DESCRIPTION, lifespan=working, docs_url=None, redoc_url=None)
    if scorer is not None:
        lanes.append(_add_rewards(app, config, scorer, numbers))
    if encoder is not None:
        lanes.append(_add_embeddings(app, config, encoder, numbers))
    _add_pages(app, numbers)
    app.add_exception_handler(RequestValidationError, _one_line)
    app.add_exception_handler(WorkFailed, _failed)
    most = int(config.max_body_mb * MIB)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=most)
    app.add_middleware(Door, token=token, max_body=most, most_bytes=BODIES * most, requests=numbers.requests)
    return app


def _add_rewards(app: FastAPI, config: ServeConfig, scorer: Scorer, numbers: Numbers) -> Lane[Rollouts, GroupRewards]:
    lane = _lane(config, numbers, "reward", scorer, lambda group: group.k)

    async def rewards(request: Request, groups: Sequence[Group]) -> list[GroupRewards]:
        _check_texts(config, [each.text for group in groups for each in group.completions])
        try:
            rollouts = await asyncio.to_thread(lambda: [scorer.rollouts(group) for group in groups])
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return await _answer(request, lane, rollouts)

    @app.post("/v1/score", response_model=ScoreReply)
    async def score(request: Request, body: ScoreRequest) -> Response:
        """Rewards of whole groups, with their parts; the form of reward=remote reward.form=dqo."""
        return _json(ScoreReply.model_construct(groups=await rewards(request, body.groups)))

    @app.post("/", response_model=RewardReply)
    @app.post("/get_reward", response_model=RewardReply)
    async def get_reward(request: Request, body: RewardRequest) -> Response:
        """A reward for each query, in OpenRLHF's form (--reward.remote_url)."""
        try:
            groups = groups_of(body, scorer.tokenizer, config.label_column)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        found = await rewards(request, groups)
        try:
            return _json(reward_reply(found))
        except StageError as error:
            raise HTTPException(422, error.message) from error

    return lane


def _add_embeddings(app: FastAPI, config: ServeConfig, encoder: Encoder, numbers: Numbers) -> Lane[str, Any]:
    lane = _lane(config, numbers, "embed", encoder, lambda text: 1)

    @app.post("/v1/embeddings", response_model=EmbeddingReply)
    async def embeddings(request: Request, body: EmbeddingRequest) -> Response:
        """Embeddings of length 1, in OpenAI's form."""
        if body.model not in (None, encoder.name):
            raise HTTPException(404, f"the model {body.model:.200} is not here; it is {encoder.name}")
        texts = [body.input] if isinstance(body.input, str) else body.input
        _check_texts(config, texts)
        found = await _answer(request, lane, texts)
        if body.dimensions is not None and found and len(found[0]) != body.dimensions:
            raise HTTPException(422, f"dimensions={body.dimensions}: this encoder has {len(found[0])}; leave it out")
        as_base64 = body.encoding_format == "base64"

        def encoded() -> Response:
            data = [embedding_item(index, each, as_base64=as_base64) for index, each in enumerate(found)]
            return _json(EmbeddingReply.model_construct(object="list", model=encoder.name, data=data))

        return await asyncio.to_thread(encoded)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The encoder's name, in OpenAI's form."""
        return {"object": "list", "data": [{"id": encoder.name, "object": "model", "owned_by": "dqo"}]}

    return lane


def _add_pages(app: FastAPI, numbers: Numbers) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the service is there; needs no token."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(generate_latest(numbers.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", response_class=HTMLResponse)
    async def describe() -> str:
        """This page."""
        return page(app.openapi())


def _lane(config: ServeConfig, numbers: Numbers, stage: str, work: Any, texts: Any) -> Lane[Any, Any]:
    measured = numbers.timed(stage, work, texts)
    lane = Lane[Any, Any](measured, texts, most=config.waiting_texts, batch=config.batch_texts)
    numbers.waiting(stage, lambda: lane.waiting)
    return lane


def _check_texts(config: ServeConfig, texts: Sequence[str]) -> None:
    if len(texts) > config.max_texts:
        raise HTTPException(422, f"{len(texts)} texts in a request; at most {config.max_texts} (max_texts)")
    if (longest := max(map(len, texts), default=0)) > config.max_characters:
        raise HTTPException(422, f"a text of {longest} characters; at most {config.max_characters} (max_characters)")


async def _answer(request: Request, lane: Lane[Item, Result], items: Sequence[Item]) -> list[Result]:
    """The results; the work is dropped where the client leaves, which a client does at its time limit."""
    work = asyncio.ensure_future(lane.ask(items))
    leaving = asyncio.ensure_future(request.receive())  # the body was read: what comes is the end
    await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if not work.done():
        work.cancel()
        raise HTTPException(LEFT, "the client has left")
    try:
        return work.result()
    except Busy:
        raise HTTPException(503, "too many texts wait; try again", RETRY) from None
    except ServiceError as error:  # one that this service asks, such as a judge
        raise HTTPException(503, error.message, RETRY) from error
    except StageError as error:
        raise HTTPException(422, error.message) from error


async def _one_line(request: Request, error: Exception) -> JSONResponse:
    """What is wrong with a request, without the request's own text."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"][1:]))
    if first["type"] == "json_invalid":
        where, first = "the body is no JSON", {"msg": f"{first['ctx']['error']} at character {where}"}
    return JSONResponse({"detail": f"{where}: {first['msg']}" if where else first["msg"]}, 422)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 500)


def _json(reply: BaseModel) -> Response:
    return Response(reply.model_dump_json(), media_type="application/json")
