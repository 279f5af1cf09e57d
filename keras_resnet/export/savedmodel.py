"""Runs SavedModels with TensorFlow's C++ loader, which TensorFlow Serving also uses.

It needs NumPy and the libraries of the tensorflow wheel. It does not import TensorFlow,
Keras or the layers of this package, so a SavedModel that runs here runs in a server.

    python -m keras_resnet.export.savedmodel FOLDER SIGNATURE INPUTS.npz OUTPUTS.npz

reads the inputs from one file and writes the outputs to the other; `npz.read_npz`
documents how strings are stored. On an error the exit code is 1, and the last line on
stderr is the reason. Lines before it are TensorFlow's log, which cannot be fully
silenced.
"""

import ctypes
import os
import sys
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_resnet.errors import SavedModelError
from keras_resnet.export import libtensorflow, metagraph
from keras_resnet.export.libtensorflow import Output, checked_status, listed
from keras_resnet.export.npz import read_npz, write_npz


class SavedModel:
    """A loaded SavedModel.

    Several threads may `run` it at the same time. No thread may use it once another one
    calls `close`.

    Args:
        folder: the folder that has saved_model.pb.

    Attributes:
        signatures: {name: {"inputs": {key: (dtype, shape)}, "outputs": the same}}. A
            dtype is a NumPy name or "string". A shape has None for a size that may
            vary, and is None if the rank is unknown.
        metadata: {name: (method, inputs, outputs)}, where inputs and outputs are
            {key: (tensor, dtype, shape)}. Unlike `signatures`, it has the internal
            signatures of the loader too.

    Raises:
        SavedModelError: TensorFlow cannot load the model, and the message is
            TensorFlow's; or its library is missing.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._lib = lib = libtensorflow.library()
        graph, meta_graph = lib.TF_NewGraph(), lib.TF_NewBuffer()
        options, tags = lib.TF_NewSessionOptions(), (ctypes.c_char_p * 1)(b"serve")
        try:
            with checked_status(lib) as status:
                session = lib.TF_LoadSessionFromSavedModel(
                    *(options, None, os.fsencode(folder), tags, len(tags)),
                    *(graph, meta_graph, status),
                )
                # before the status is checked, because a failed load has a graph too
                self._close = weakref.finalize(
                    self, libtensorflow.free, lib, session, graph
                )
            # the first fields of TF_Buffer
            address, size = (ctypes.c_size_t * 2).from_address(meta_graph)
            data = memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")
            self.metadata = metagraph.metadata(data)
            self._tensors = metagraph.signature_defs(data)
        finally:
            lib.TF_DeleteBuffer(meta_graph)
            lib.TF_DeleteSessionOptions(options)
        self._session, self._graph = session, graph
        self.signatures = {
            name: {
                side: {key: info[1:] for key, info in tensors.items()}
                for side, tensors in zip(("inputs", "outputs"), sides)
            }
            for name, sides in self._tensors.items()
        }

    def run(
        self, signature: str, seconds: float | None = None, /, **inputs: Any
    ) -> dict[str, np.ndarray]:
        """Runs a signature, like one request to a server.

        Dtypes are not converted. Shapes are not checked here, as in a server; the graph
        raises an error for shapes that do not fit.

        Args:
            signature: one of `signatures`.
            seconds: the time limit. After it no further operation starts, and the
                method raises when the running operations have finished. None: no limit.
            inputs: an array for each input of the signature. The value of a string
                tensor is a list of bytes, or an array of bytes with dtype object.

        Returns:
            {key: array} of the outputs; a string tensor is an array of bytes with dtype
            object.

        Raises:
            SavedModelError: an argument is invalid, and the message names it; or the
                run fails, and the message is TensorFlow's.
        """
        if not self._close.alive:
            raise SavedModelError("this SavedModel is closed")
        if signature not in self._tensors:
            allowed = listed(self._tensors)
            raise SavedModelError(f"signature={signature!r}: must be one of {allowed}")
        sources, results = self._tensors[signature]
        missing, extra = sources.keys() - inputs, inputs.keys() - sources
        if missing or extra:
            raise SavedModelError(
                f"{signature} takes {listed(sources)}:"
                f" missing {listed(missing)}, unexpected {listed(extra)}"
            )
        arrays = {
            key: libtensorflow.as_input(key, inputs[key], dtype)
            for key, (_, dtype, _) in sources.items()
        }
        return self._run(arrays, sources, results, seconds)

    def _run(
        self,
        arrays: dict[str, np.ndarray],
        sources: metagraph.Side,
        results: metagraph.Side,
        seconds: float | None,
    ) -> dict[str, np.ndarray]:
        lib, n_in, n_out = self._lib, len(sources), len(results)
        feeds = (Output * n_in)(*(self._output(name) for name, *_ in sources.values()))
        fetches = (Output * n_out)(
            *(self._output(name) for name, *_ in results.values())
        )
        given, made = (ctypes.c_void_p * n_in)(), (ctypes.c_void_p * n_out)()
        options = libtensorflow.run_options(lib, seconds)
        try:
            for index, (key, array) in enumerate(arrays.items()):
                given[index] = libtensorflow.to_tensor(lib, array, sources[key][1])
            with checked_status(lib) as status:
                lib.TF_SessionRun(
                    *(self._session, options, feeds, given, n_in),
                    *(fetches, made, n_out),
                    *(None, 0, None, status),
                )
            return {
                key: libtensorflow.to_array(lib, tensor, key)
                for key, tensor in zip(results, made)
            }
        finally:
            for tensor in filter(None, [*given, *made]):
                lib.TF_DeleteTensor(tensor)
            if options:
                lib.TF_DeleteBuffer(options)

    def end(self) -> None:
        """Ends the current runs as if their time limit were over, and refuses new ones.

        Memory is freed only by `close`.
        """
        if self._close.alive:
            with checked_status(self._lib) as status:
                self._lib.TF_CloseSession(self._session, status)

    def close(self) -> None:
        """Frees the session, graph and variables; further calls have no effect."""
        self._close()

    def __enter__(self) -> "SavedModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _output(self, tensor: str) -> Output:
        name, _, index = tensor.rpartition(":")
        operation = self._lib.TF_GraphOperationByName(self._graph, name.encode())
        if not operation:  # missing, or a sparse or composite tensor
            raise SavedModelError(f"the graph has no tensor {tensor!r}")
        return Output(operation, int(index))


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments of the command line."""
    if len(arguments) != 4:
        raise SavedModelError("must have FOLDER SIGNATURE INPUTS.npz OUTPUTS.npz")
    folder, signature, source, target = arguments
    inputs = read_npz(source)  # before loading the model, which takes seconds
    with SavedModel(folder) as model:
        write_npz(target, model.run(signature, **inputs))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (SavedModelError, OSError) as error:
        sys.exit(" ".join(f"savedmodel: {error}".split()))
