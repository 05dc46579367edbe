"""POST /v1/chat/completions and GET /v1/models, as clients of OpenAI's API expect them.

Each answer is one prediction on the arm "chat": the first has the id of the reply, answer 1 the id "REPLY/1". The last
chunk is sent once they are in the log. An answer whose client goes away is logged as `aborted`, with the tokens that
were sampled until then, so that what was sent is known; one without any token is not logged.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from everlearn.app import problems
from everlearn.app.generator import openai_records as wire
from everlearn.app.generator.context import GeneratorContext
from everlearn.app.generator.device import Began, Chat, ServedPolicy, Written
from everlearn.app.generator.openai_records import ApiError, ChatAnswer, ChatRequest, ReplyHead
from everlearn.app.generator.writing import AnswerWriter
from everlearn.app.problems import Refused
from everlearn.errors import InputError
from everlearn.families.preference import asking
from everlearn.families.preference.sampling import Truncation
from everlearn.predict import new_id
from everlearn.records import Prediction
from everlearn.schema.question import Asked, Sampling, pack_ids
from everlearn.spec import MOST_BYTES
from everlearn.stream.prompts import written

NAME = "everlearn"  # of the served model, beside the name of its frozen weights

_SMALLEST = 1e-9  # of top_p, which keeps one token


async def models(context: GeneratorContext, request: Request) -> Response:
    """GET /v1/models"""
    listed = [{"id": name, "object": "model", "created": 0, "owned_by": "everlearn"} for name in _names(context)]
    return _json(msgspec.json.encode({"object": "list", "data": listed}))


async def completions(context: GeneratorContext, request: Request) -> Response:
    """POST /v1/chat/completions"""
    wanted = wire.chat_request(await whole(request))
    if wanted.model not in _names(context):
        known = ", ".join(_names(context))
        raise ApiError(f"model: got {wanted.model!r}; expected one of {known}", "model", "model_not_found", 404)
    reply = Reply(context, wanted)
    began = await reply.begin()
    if wanted.stream:
        return StreamingResponse(reply.events(began), media_type="text/event-stream", headers=_UNCACHED)
    return _json(await reply.whole(began))


def refused(error: Exception, request: Request) -> Response:
    """Return an error in OpenAI's form."""
    found, headers = api_error(error, request.url.path), problems.headers(error)
    response = _json(found.content, found.status)
    response.raw_headers += [header for header in headers if header[0] not in (b"content-type", b"cache-control")]
    return response


def api_error(error: Exception, path: str) -> ApiError:
    """Return an error of any kind as one of OpenAI's API; a fault of the server is logged, and gets an id."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InputError) and not isinstance(error, KeyError):
        return ApiError(str(error), "messages", "context_length_exceeded" if "tokens" in str(error) else None)
    status, body = problems.problem(error, path)
    return ApiError(msgspec.json.decode(body)["detail"], status=status)


async def whole(request: Request) -> bytes:
    """Return the body of a request. Raises Refused (413) for one that is too large."""
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > MOST_BYTES:
            raise Refused(413, "", f"the body is larger than {MOST_BYTES} bytes")
    return bytes(received)


class Reply:
    """One request on its way to an answer that is in the log."""

    def __init__(self, context: GeneratorContext, wanted: ChatRequest) -> None:
        self._context, self._wanted = context, wanted
        self._loop = asyncio.get_running_loop()
        self._came: asyncio.Queue[Began | Written | Exception | None] = asyncio.Queue()
        self._seed = (wanted.seed if wanted.seed is not None else secrets.randbits(62)) & ((1 << 63) - 1)
        most = context.spec.schema.answer_tokens
        self._limit = min(wanted.max_tokens or most, most)
        turns = [
            {"role": "system" if turn.role == "developer" else turn.role, "content": turn.content}
            for turn in wanted.messages
        ]
        self._truncation = Truncation(wanted.temperature, max(wanted.top_p, _SMALLEST))
        self._chat = Chat(
            turns, wanted.n, self._seed, self._truncation, self._limit, wanted.stop, wanted.top_logprobs, self._post
        )
        self.id = f"chatcmpl-{new_id()}"

    async def begin(self) -> Began:
        """Wait until the device has taken the request up. Raises the error that it is refused with."""
        self._context.device.chat(self._chat)
        try:
            began = await self._came.get()
        except asyncio.CancelledError:
            self._chat.cancelled = True
            raise
        if isinstance(began, Exception):
            raise began
        assert isinstance(began, Began)
        return began

    async def whole(self, began: Began) -> bytes:
        """Return the whole reply, once it is in the log."""
        logprobs: list[list[wire.TokenLogprob]] = [[] for _ in range(self._wanted.n)]
        async for one in self._written():
            logprobs[one.place] += one.logprobs or []
        await self._record(began)
        answers = [
            ChatAnswer(one.text, one.finish or "length", one.tokens, held if self._chat.top is not None else None)
            for one, held in zip(self._chat.writers, logprobs, strict=True)
        ]
        return wire.completion(self._head(began.policy), answers, len(began.prompt))

    async def events(self, began: Began) -> AsyncIterator[bytes]:
        """Yield the events of a stream; the last ones once the answers are in the log."""
        head, usage, recorded = self._head(began.policy), self._wanted.usage, False
        try:
            for place in range(self._wanted.n):
                yield wire.opening(head, place, usage)
            async for one in self._written():
                if one.text or one.logprobs:
                    yield wire.text_chunk(head, one.place, one.text, one.logprobs, usage)
            await self._record(began)
            recorded = True
            for place, writer in enumerate(self._chat.writers):
                yield wire.closing(head, place, writer.finish or "length", usage)
            if usage:
                yield wire.usage_chunk(head, len(began.prompt), sum(one.tokens for one in self._chat.writers))
            yield wire.DONE
        except Exception as error:
            recorded = True  # it failed, and was not broken off
            yield wire.error_event(api_error(error, "/v1/chat/completions"))
        finally:
            self._chat.cancelled = True
            if not recorded:
                _keep(asyncio.ensure_future(self._abort(began)))

    async def _written(self) -> AsyncIterator[Written]:
        """Yield new text until all answers are whole. Raises the error of the device."""
        while (one := await self._came.get()) is not None:
            if isinstance(one, Exception):
                raise one
            if isinstance(one, Written):
                yield one

    async def _abort(self, began: Began) -> None:
        """Log what was sampled before the client went away."""
        async for _ in self._written():
            pass  # until the device has stopped writing
        await self._record(began, aborted=True)

    async def _record(self, began: Began, aborted: bool = False) -> None:
        """Write the answers to the log. Raises as `Log.append` does."""
        made = [
            self._prediction(began, writer, place, aborted and writer.finish is None)
            for place, writer in enumerate(self._chat.writers)
            if writer.tokens
        ]
        await self._context.append(made)

    def _prediction(self, began: Began, writer: AnswerWriter, place: int, aborted: bool) -> Prediction:
        policy, wanted = began.policy, self._wanted
        one = asking.answer(policy.model, writer.sampled, version=policy.version, seed=self._seed)
        question = Asked(
            prompt=pack_ids(began.prompt),
            answers=(msgspec.structs.replace(one, text=writer.text),),
            arm="chat",
            sampling=Sampling(temperature=wanted.temperature, top_p=wanted.top_p, limit=self._limit),
            tokenizer=asking.digest(policy.model.tokenizer),
            aborted=aborted,
        )
        id = self.id if place == 0 else f"{self.id}/{place}"
        return self._context.prediction(question, policy, written(wanted.messages), id=id, user=wanted.user)

    def _head(self, policy: ServedPolicy) -> ReplyHead:
        return ReplyHead(self.id, int(time.time()), self._wanted.model, policy.version)

    def _post(self, one: Began | Written | Exception | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._came.put_nowait, one)


_UNCACHED = {"cache-control": "no-store", "x-accel-buffering": "no", "x-content-type-options": "nosniff"}
_recording: set[asyncio.Future[None]] = set()  # the event loop holds no task by itself


def _keep(task: asyncio.Future[None]) -> None:
    _recording.add(task)
    task.add_done_callback(_recording.discard)


def _names(context: GeneratorContext) -> Sequence[str]:
    """Return the names of the served model: "everlearn", and that of its frozen weights."""
    held = str(context.spec.model.get("model", ""))
    return (NAME, held) if held and held != NAME else (NAME,)


def _json(content: bytes, status: int = 200) -> Response:
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(content, status, headers, "application/json")
