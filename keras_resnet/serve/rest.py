"""The REST API of TensorFlow Serving: status, metadata and :predict of one model."""

import asyncio
import concurrent.futures
import re
import time

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from keras_resnet.errors import SavedModelError
from keras_resnet.export.numbering import LAST
from keras_resnet.serve import answers, header, requests
from keras_resnet.serve.admission import Admission
from keras_resnet.serve.requests import Call, RequestError
from keras_resnet.serve.versions import Version, Versions

PICTURES = "image_bytes"  # the input for JPEG and PNG files
_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>[0-9]{1,4000}))?"
    r"(?P<verb>/metadata|:[a-z]+)?"
)
_CLOSED = 499  # nginx's status for a client that closed the connection


class Rest:
    """Answers requests to paths under /v1; errors of callers are RequestErrors."""

    def __init__(self, versions: Versions) -> None:
        self._versions, self._settings = versions, versions.settings
        self._metrics = versions.metrics
        self._admission = Admission(self._settings, self._metrics.queue)
        # one thread, because JSON holds the GIL, and its lists of numbers need memory
        self._codec = concurrent.futures.ThreadPoolExecutor(1, "json")
        self._limits: set[asyncio.Timeout] = set()  # of the current requests
        self._is_ending = False

    def close(self) -> None:
        self._codec.shutdown()

    def end(self) -> None:
        """Answers all current and future requests with a 503."""
        self._is_ending = True
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(0)

    async def answer(self, request: Request) -> Response:
        """Returns the response to a request.

        Raises:
            RequestError: the request is invalid or cannot be answered.
            HTTPException: 405 for a method that the path does not have.
        """
        found = _PATH.fullmatch(request.scope["path"])
        if not found:
            raise RequestError(
                400,
                "no such path: see /v1/models/NAME[/versions/N][:predict|/metadata]",
            )
        if found["name"] != self._settings.name:
            wanted = self._settings.name
            raise RequestError(404, f"no model {found['name']!r}: must be {wanted!r}")
        verb = found["verb"] or ""
        if verb not in ("", "/metadata", ":predict"):
            raise RequestError(400, f"{verb} is not served: use :predict")
        allowed = ("POST",) if verb == ":predict" else ("GET", "HEAD")
        if request.method not in allowed:
            raise HTTPException(405, headers={"Allow": ", ".join(allowed)})
        number = int(found["version"]) if found["version"] else None
        if number is not None and number > LAST:
            raise RequestError(400, f"version {number}: must be at most {LAST}")
        if verb == ":predict":
            return await self._predict(request, number)
        if verb == "/metadata":
            version = self._version(number)
            return JSONResponse(
                answers.metadata(
                    self._settings.name, version.number, version.model.metadata
                )
            )
        return self._status(number)

    def _version(self, number: int | None) -> Version:
        """Returns the current version, which must have this number if it is given."""
        current = self._versions.current
        if number is not None and (not current or current.number != number):
            served = f": {current.number} is served" if current else ""
            raise RequestError(404, f"version {number} is not available{served}")
        if not current:
            raise RequestError(503, "no version of the model is available")
        return current

    def _status(self, number: int | None) -> Response:
        statuses = [
            entry
            for entry in self._versions.statuses()
            if number is None or entry["version"] == str(number)
        ]
        if not statuses:
            which = "any version" if number is None else f"version {number}"
            raise RequestError(404, f"could not find {which} of the model")
        return JSONResponse({"model_version_status": statuses})

    async def _predict(self, request: Request, number: int | None) -> Response:
        start, labels = time.perf_counter(), {"signature": "none"}
        code = 500
        try:
            with self._version(number).use() as version:
                content = await self._answer(request, version, labels)
            code = 200
            headers = {"X-Model-Version": str(version.number)}
            return Response(content, code, headers, media_type="application/json")
        except ClientDisconnect:
            code = _CLOSED
            return Response(status_code=code)
        except RequestError as error:
            code = error.status
            raise
        finally:
            seconds = time.perf_counter() - start
            self._metrics.requests.labels(**labels, code=code).inc()
            self._metrics.seconds.labels(**labels).observe(seconds)

    async def _answer(
        self, request: Request, version: Version, labels: dict[str, str]
    ) -> bytes:
        seconds = self._settings.answer_seconds
        limit = asyncio.timeout(0 if self._is_ending else None)
        self._limits.add(limit)
        try:
            async with limit, self._admission.body(request) as body:
                limit.reschedule(asyncio.get_running_loop().time() + seconds)
                until = time.monotonic() + seconds
                return await self._run(version, body, labels, until)
        except TimeoutError:
            if self._is_ending:
                message = "the server was stopped: try again later"
                raise RequestError(503, message) from None
            message = f"no answer within {seconds:g} s: send fewer rows at a time"
            raise RequestError(504, message) from None
        finally:
            self._limits.discard(limit)

    async def _run(
        self, version: Version, body: bytes, labels: dict[str, str], until: float
    ) -> bytes:
        loop = asyncio.get_running_loop()
        call, pixels, oversized = await loop.run_in_executor(
            self._codec, self._read, version, body
        )
        labels["signature"] = call.signature
        try:
            outputs = await version.batcher.run(
                call.signature, call.inputs, call.rows, pixels, until
            )
        except SavedModelError as error:
            if self._is_ending or time.monotonic() > until:
                raise TimeoutError from error
            message = str(error).partition("\n")[0]  # the rest is about graph nodes
            raise RequestError(400, f"{call.signature}: {message}") from error
        if "ok" in outputs and outputs["ok"].dtype == bool:
            unreadable = (~outputs["ok"]).sum() - oversized
            self._metrics.refused.labels("unreadable").inc(unreadable)
        return await loop.run_in_executor(
            self._codec, answers.write, outputs, call.by_rows
        )

    def _read(self, version: Version, body: bytes) -> tuple[Call, np.ndarray, int]:
        """Returns (the Call, the pixels of each row, how many images are too large)."""
        limits = self._settings
        call = requests.read(body, version.model.signatures, limits.max_rows)
        pixels = np.zeros(call.rows, np.int64)
        oversized = 0
        pictures = call.inputs.get(PICTURES)
        if pictures is not None and pictures.dtype == object:
            for index, data in enumerate(pictures.flat):
                size = header.pixels(data)
                # images that are too large or of other formats must not be decoded;
                # for empty bytes, the graph answers that the row is not ok
                if size is None or size > limits.max_pixels:
                    pictures.flat[index] = b""
                else:
                    pixels[index * call.rows // pictures.size] += size
                oversized += size is not None and size > limits.max_pixels
        self._metrics.refused.labels("pixels").inc(oversized)
        if pixels.sum() > limits.max_request_pixels:
            raise RequestError(
                413,
                f"the pictures have {pixels.sum()} pixels: must be at most "
                f"{limits.max_request_pixels} a request",
            )
        return call, pixels, oversized
