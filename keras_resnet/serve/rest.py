"""TensorFlow Serving's REST paths: status, metadata and :predict of one model."""

import asyncio
import concurrent.futures
import re
import time

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from keras_resnet.savedmodel import SavedModelError
from keras_resnet.serve import answers, header, requests
from keras_resnet.serve.requests import RequestError

PICTURES = "image_bytes"  # the input that holds JPEG and PNG files
_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>[0-9]{1,19}))?"
    r"(?P<verb>/metadata|:[a-z]+)?"
)
_CLOSED = 499  # nginx's code of a client that went away


class Rest:
    """Answers under /v1; everything that a caller did wrong is a RequestError."""

    def __init__(self, versions, settings, metrics, admission):
        self._versions, self._settings = versions, settings
        self._metrics, self._admission = metrics, admission
        # one: JSON holds Python's lock anyway, and lists of numbers take much memory
        self._codec = concurrent.futures.ThreadPoolExecutor(1, "json")

    def close(self):
        self._codec.shutdown()

    async def answer(self, request):
        """The response to a request for a path under /v1."""
        found = _PATH.fullmatch(request.scope["path"])
        if not found:
            raise RequestError(
                404,
                "no such path: see /v1/models/NAME[/versions/N][:predict|/metadata]",
            )
        if found["name"] != self._settings.name:
            wanted = self._settings.name
            raise RequestError(404, f"no model {found['name']!r}: this is {wanted!r}")
        verb = found["verb"] or ""
        if verb not in ("", "/metadata", ":predict"):
            raise RequestError(404, f"{verb} is not served: use :predict")
        allowed = ("POST",) if verb == ":predict" else ("GET", "HEAD")
        if request.method not in allowed:
            raise HTTPException(405, headers={"Allow": ", ".join(allowed)})
        number = int(found["version"]) if found["version"] else None
        if verb == ":predict":
            return await self._predict(request, number)
        if verb == "/metadata":
            version = self._version(number)
            return JSONResponse(
                answers.metadata(
                    self._settings.name, version.number, version.model._tensors
                )
            )
        return self._status(number)

    def _version(self, number):
        """The Version of this number, or the newest."""
        current = self._versions.current
        if number is not None and (not current or current.number != number):
            served = f": {current.number} is served" if current else ""
            raise RequestError(404, f"version {number} is not available{served}")
        if not current:
            raise RequestError(503, "no version of the model is available")
        return current

    def _status(self, number):
        statuses = [
            entry
            for entry in self._versions.statuses()
            if number is None or entry["version"] == str(number)
        ]
        if not statuses:
            which = "any version" if number is None else f"version {number}"
            raise RequestError(404, f"could not find {which} of the model")
        return JSONResponse({"model_version_status": statuses})

    async def _predict(self, request, number):
        start, seen = time.perf_counter(), {"signature": "none"}
        code = 500
        try:
            with self._version(number).use() as version:
                async with self._admission.body(request) as body:
                    content = await self._run(version, body, seen)
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
            self._metrics.requests.labels(seen["signature"], code).inc()
            self._metrics.seconds.labels(seen["signature"]).observe(seconds)

    async def _run(self, version, body, seen):
        loop = asyncio.get_running_loop()
        call = await loop.run_in_executor(self._codec, self._read, version, body)
        seen["signature"] = call.signature
        try:
            outputs = await version.batcher.run(call.signature, call.inputs, call.rows)
        except SavedModelError as error:
            message = str(error).partition("\n")[0]  # the rest names nodes of the graph
            raise RequestError(400, f"{call.signature}: {message}") from error
        if "ok" in outputs and outputs["ok"].dtype == bool:
            self._metrics.refused.labels("unreadable").inc((~outputs["ok"]).sum())
        return await loop.run_in_executor(
            self._codec, answers.write, outputs, call.by_rows
        )

    def _read(self, version, body):
        most = self._settings
        call = requests.read(body, version.model.signatures, most.max_rows)
        pictures = call.inputs.get(PICTURES)
        if pictures is not None and pictures.dtype == object:
            for index, data in enumerate(pictures.flat):
                size = header.pixels(data)
                # what is no JPEG or PNG keeps away from decoders of other formats, and
                # what is too large from all: the graph says that the row is not ok
                if size is None or size > most.max_pixels:
                    pictures.flat[index] = b""
                if size is not None and size > most.max_pixels:
                    self._metrics.refused.labels("pixels").inc()
        return call
