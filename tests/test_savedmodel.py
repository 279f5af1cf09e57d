"""The C++ loader answers as TensorFlow does, without a Python TensorFlow."""

import concurrent.futures
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from keras_resnet.errors import SavedModelError
from keras_resnet.export import libtensorflow, metagraph, npz
from keras_resnet.export.savedmodel import SavedModel

SCRIPT = "keras_resnet.export.savedmodel"
# a TF_TString holds up to 22 bytes itself and points to more
STRINGS = [b"", b"a", b"b" * 22, b"c" * 23, b"d" * 24, b"\0e\0" * 50_000, b"f\0\0"]
NUMBERS = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "bool": np.bool_,
}


def _spec(dtype, name, shape=(None,)):
    return tf.TensorSpec(shape, dtype, name)


class Net(tf.Module):
    def __init__(self):
        self.kernel = tf.Variable([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        self.kept = tf.Variable(["none yet"], shape=[None])

    @tf.function(input_signature=[_spec(tf.float32, "x", (None, 3))])
    def project(self, x):
        return {"y": x @ self.kernel, "rows": tf.shape(x, tf.int64)[0]}

    @tf.function(input_signature=[_spec(tf.string, "s", None), _spec(tf.int64, "n")])
    def text(self, s, n):
        return {
            "same": s,
            "twice": tf.strings.join([s, s]),
            "length": tf.strings.length(s),
            "file": n + 2**40,
        }

    @tf.function(input_signature=[_spec(tf.as_dtype(t), t, None) for t in NUMBERS])
    def numbers(self, *inputs):
        return dict(zip(NUMBERS, map(tf.identity, inputs)))

    @tf.function(input_signature=[_spec(tf.string, "s")])
    def keep(self, s):
        self.kept.assign(s)
        return {"count": tf.size(s)}

    @tf.function(input_signature=[_spec(tf.int64, "n", ())])
    def count(self, n):
        return {"n": tf.while_loop(lambda i: i < n, lambda i: [i + 1], [n - n])[0]}

    @tf.function(input_signature=[])
    def kept_strings(self):
        return {"s": self.kept.read_value()}

    @tf.function(input_signature=[_spec(tf.float32, "x")])
    def complex_output(self, x):
        return {"y": tf.complex(x, x)}

    @tf.function(input_signature=[_spec(tf.complex64, "x")])
    def complex_input(self, x):
        return {"y": tf.abs(x)}


SIGNATURES = {"serving_default": "project"} | {
    name: name
    for name in (
        *("text", "numbers", "keep", "count", "kept_strings"),
        *("complex_output", "complex_input"),
    )
}


@pytest.fixture(scope="module")
def net():
    return Net()


@pytest.fixture(scope="module")
def folder(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "1"
    signatures = {name: getattr(net, method) for name, method in SIGNATURES.items()}
    tf.saved_model.save(net, str(path), signatures=signatures)
    return path


@pytest.fixture(scope="module")
def model(folder):
    with SavedModel(folder) as model:
        yield model


def rows(count):
    return np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32)


def objects(values):
    return np.array(values, object)


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


# In one process with Python's TensorFlow


def test_signatures_are_those_of_the_export(model):
    assert model.signatures.keys() == SIGNATURES.keys()
    assert model.signatures["serving_default"] == {
        "inputs": {"x": ("float32", (None, 3))},
        "outputs": {"rows": ("int64", ()), "y": ("float32", (None, 2))},
    }
    assert model.signatures["text"]["inputs"] == {
        "n": ("int64", (None,)),
        "s": ("string", None),
    }
    assert model.signatures["numbers"]["inputs"] == {n: (n, None) for n in NUMBERS}
    assert model.signatures["kept_strings"]["inputs"] == {}
    assert model.signatures["complex_input"]["inputs"]["x"][0] == "DataType 8"


@pytest.mark.parametrize("count", [0, 1, 3, 64])
def test_any_batch_equals_tensorflow(model, net, count):
    x = rows(count)
    outputs = model.run("serving_default", x=x)
    expected = net.project(tf.constant(x))
    assert outputs.keys() == {"rows", "y"}
    assert outputs["y"].dtype == np.float32
    assert outputs["y"].shape == (count, 2)
    np.testing.assert_array_equal(outputs["y"], expected["y"].numpy())
    assert outputs["rows"] == count
    assert outputs["rows"].shape == ()


@pytest.mark.parametrize(
    "strings",
    [
        objects(STRINGS),
        objects([]),
        objects(b"a scalar of more than 22 bytes"),
        objects([[b"r", b"s" * 40], [b"", b"t"]]).T,  # not in C order
    ],
    ids=["all_lengths", "none", "scalar", "transposed"],
)
def test_strings_equal_tensorflow(model, net, strings):
    n = np.arange(5)
    outputs = model.run("text", s=strings, n=n)
    expected = net.text(tf.constant(strings, tf.string), tf.constant(n))
    assert outputs.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(outputs[key], value.numpy(), strict=False)
        assert outputs[key].shape == tuple(value.shape)
    assert outputs["same"].dtype == object
    assert outputs["file"].dtype == np.int64


def test_a_list_of_bytes_is_a_string_tensor(model):
    outputs = model.run("text", s=STRINGS, n=np.zeros(0, np.int64))
    assert outputs["same"].tolist() == STRINGS


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_every_dtype_comes_back_bit_for_bit(model, shape):
    rng = np.random.default_rng(0)
    inputs = {
        name: np.asarray(rng.integers(0, 2, shape) * 1.5).astype(dtype)
        for name, dtype in NUMBERS.items()
    }
    outputs = model.run("numbers", **inputs)
    assert outputs.keys() == inputs.keys()
    for name, value in inputs.items():
        assert outputs[name].dtype == value.dtype
        assert outputs[name].shape == shape
        assert outputs[name].tobytes() == value.tobytes()


def test_strided_input_is_read_in_order(model, net):
    x = rows(12)[::-2]
    expected = net.project(tf.constant(x))["y"]
    np.testing.assert_array_equal(model.run("serving_default", x=x)["y"], expected)


def test_strings_that_a_variable_keeps_outlive_their_request(folder):
    with SavedModel(folder) as model:
        assert model.run("kept_strings")["s"].tolist() == [b"none yet"]
        for text in (b"first" * 10, b"second" * 10):
            model.run("keep", s=[text, b"short"])
            assert len(libtensorflow.live_strings) == 1  # the former ones are freed
            model.run("text", s=[b"!" * 50] * 50, n=np.zeros(1, np.int64))
            assert model.run("kept_strings")["s"].tolist() == [text, b"short"]
    assert not libtensorflow.live_strings


def test_many_threads_get_their_own_answers(model):
    wrong = []

    def client(number):
        for turn in range(50):
            text = b"%d-%d" % (number, turn) * 10
            x = np.full((number + 1, 3), turn, np.float32)
            got = model.run("text", s=[text], n=np.array([number]))
            y = model.run("serving_default", x=x)["y"]
            if got["twice"] != text * 2 or got["file"] != number + 2**40:
                wrong.append(text)
            if y.tolist() != [[9 * turn, 12 * turn]] * (number + 1):
                wrong.append(x)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not libtensorflow.live_strings


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_library_serves_this_and_the_python_package(model):
    maps = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split()[-1] for line in maps if "libtensorflow_cc" in line}
    assert len(paths) == 1


# Refusals

X = rows(1)
N = np.zeros(1, np.int64)


@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        ("serve", {"x": X}, "signature='serve': must be one of .*serving_default, te"),
        ("serving_default", {}, "takes x: missing x, unexpected nothing"),
        ("text", {"s": [b""]}, "takes n, s: missing n, unexpected nothing"),
        ("serving_default", {"x": X, "z": X}, "takes x: missing nothing, unexpected z"),
        ("kept_strings", {"x": X}, "takes nothing: missing nothing, unexpected x"),
        ("serving_default", {"x": X.astype(float)}, "x has dtype float64: .*float32"),
        ("serving_default", {"x": X.astype(">f4")}, "x has dtype >f4: .* float32"),
        ("serving_default", {"x": [[1, 2, 3]]}, "x has dtype int64: must be float32"),
        ("serving_default", {"x": [[b"1"]]}, r"x has dtype \|S1: must be float32"),
        ("serving_default", {"x": objects([1])}, "x has dtype object: .* float32"),
        ("text", {"s": [b""], "n": N.astype("u8")}, "n has dtype uint64: .* int64"),
        ("text", {"s": np.array([b"a"]), "n": N}, r"s has dtype \|S1: .* of bytes"),
        ("text", {"s": np.array(["a"]), "n": N}, "s has dtype <U1: .* of bytes"),
        ("text", {"s": [b"a", "b"], "n": N}, "s has dtype object: must hold bytes"),
        ("text", {"s": [None], "n": N}, "s has dtype object: must hold bytes"),
        ("text", {"s": 7, "n": N}, "s has dtype object: must hold bytes"),
        ("complex_input", {"x": X}, "input x is DataType 8: must be one of bfloat16"),
        ("complex_output", {"x": X[0]}, "output y is DataType 8: must be one of"),
        (
            "serving_default",
            {"x": rows(2)[:, :2]},
            r"Matrix size-incompatible.*\[3,2\]",
        ),
        ("serving_default", {"x": X[0]}, "."),  # each kernel has its own words
    ],
)
def test_a_bad_request_is_refused_and_the_next_is_not(
    model, signature, inputs, message
):
    with pytest.raises(SavedModelError, match=message):
        model.run(signature, **inputs)
    assert model.run("serving_default", x=rows(2))["y"].shape == (2, 2)
    assert not libtensorflow.live_strings


def test_bfloat16_is_refused_without_its_package(model, monkeypatch):
    inputs = {name: np.zeros(1, dtype) for name, dtype in NUMBERS.items()}
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(
        SavedModelError, match="bfloat16 is bfloat16: install ml_dtypes"
    ):
        model.run("numbers", **inputs)


def test_a_closed_model_refuses_to_run(folder):
    with SavedModel(folder) as model:
        model.run("serving_default", x=X)
    model.close()
    with pytest.raises(SavedModelError, match="closed"):
        model.run("serving_default", x=X)


ENDLESS = np.int64(2**62)


def test_a_run_ends_when_its_time_is_over(model):
    with pytest.raises(SavedModelError):
        model.run("count", 0.2, n=ENDLESS)
    assert model.run("count", 600, n=np.int64(300))["n"] == 300
    assert model.run("count", n=np.int64(300))["n"] == 300


def test_a_model_that_is_ended_runs_nothing_more(folder):
    with (
        SavedModel(folder) as model,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        running = [pool.submit(model.run, "count", n=ENDLESS) for _ in range(2)]
        time.sleep(0.2)
        model.end()
        for run in running:
            with pytest.raises(SavedModelError):
                run.result(30)
        with pytest.raises(SavedModelError):
            model.run("count", n=np.int64(1))
        model.end()
    model.end()  # nor of one that is closed


def test_what_is_no_model_is_refused_in_tensorflows_words(tmp_path, folder):
    with pytest.raises(SavedModelError, match=r"Could not find SavedModel .*missing"):
        SavedModel(tmp_path / "missing")
    with pytest.raises(SavedModelError, match=r"Could not find SavedModel"):
        SavedModel(tmp_path)
    data = Path(folder, "saved_model.pb").read_bytes()
    Path(tmp_path, "saved_model.pb").write_bytes(data[: len(data) // 2])
    with pytest.raises(SavedModelError, match="Read less bytes"):
        SavedModel(tmp_path)


def test_a_model_without_its_variables_loads_and_does_not_run(tmp_path, folder):
    shutil.copy(
        folder / "saved_model.pb", tmp_path
    )  # TensorFlow takes it for one of none
    with (
        SavedModel(tmp_path) as model,
        pytest.raises(SavedModelError, match="Could not find variable"),
    ):
        model.run("serving_default", x=X)


def test_no_tensorflow_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        SavedModelError, match=r"no libtensorflow_cc\.so\.2 .* in no ins"
    ):
        libtensorflow.library.__wrapped__()


class Ledger:
    """The C library, which notes what it makes until it is deleted."""

    def __init__(self, lib):
        self.lib, self.live, self.total = lib, set(), 0

    def _made(self, *pointers):
        self.live |= {pointer for pointer in pointers if pointer}
        self.total += len(pointers)

    def __getattr__(self, name):
        def call(*arguments):
            result = getattr(self.lib, name)(*arguments)
            if name.startswith(("TF_New", "TF_Allocate", "TF_Load")):
                self._made(result)
            elif name == "TF_SessionRun":
                self._made(*arguments[6])
            elif name.startswith("TF_Delete"):
                self.live.remove(arguments[0])  # an error if deleted twice
            return result

        return call


def test_all_that_the_library_makes_is_deleted(folder, tmp_path, monkeypatch):
    ledger = Ledger(libtensorflow.library())
    monkeypatch.setattr(libtensorflow, "library", lambda: ledger)
    with SavedModel(folder) as model:
        loaded = set(ledger.live)
        assert len(loaded) == 2  # the session and its graph
        model.run("serving_default", x=X)
        model.run("text", s=STRINGS, n=N)
        model.run("count", 60, n=np.int64(3))
        for signature, inputs in [
            ("serving_default", {"x": X[0]}),
            ("complex_output", {"x": X[0]}),
            ("text", {"s": [0], "n": N}),
        ]:
            with pytest.raises(SavedModelError):
                model.run(signature, **inputs)
        assert ledger.live == loaded
    with pytest.raises(SavedModelError):
        SavedModel(tmp_path)
    SavedModel(folder)  # is never closed
    gc.collect()
    assert not ledger.live
    assert ledger.total > 20


# The wire format


def test_signatures_are_read_as_protobuf_reads_them():
    shape = tensor_shape_pb2.TensorShapeProto
    sizes = (-1, 0, 1, 127, 128, 2**40)
    meta_graph = meta_graph_pb2.MetaGraphDef()
    meta_graph.graph_def.node.add(name="n" * 300)  # before the signatures
    meta_graph.asset_file_def.add(filename="labels.txt")  # and after
    tensors = meta_graph.signature_def["naïve"]
    tensors.method_name = "tensorflow/serving/predict"
    for key, dtype, it in [
        ("b", types_pb2.DT_STRING, shape(dim=[shape.Dim(size=n) for n in sizes])),
        ("a", types_pb2.DT_HALF, shape(unknown_rank=True)),
        ("c", types_pb2.DT_VARIANT, shape()),
    ]:
        tensors.inputs[key].name = f"{key * 200}:3"
        tensors.inputs[key].dtype = dtype
        tensors.inputs[key].tensor_shape.CopyFrom(it)
    tensors.outputs["sparse"].coo_sparse.values_tensor_name = "values:0"
    meta_graph.signature_def["__saved_model_init_op"].SetInParent()
    assert metagraph.signature_defs(memoryview(meta_graph.SerializeToString())) == {
        "naïve": (
            {
                "a": ("a" * 200 + ":3", "float16", None),
                "b": ("b" * 200 + ":3", "string", (None, *sizes[1:])),
                "c": ("c" * 200 + ":3", "DataType 21", ()),
            },
            {"sparse": ("", "DataType 0", ())},
        )
    }


def test_fields_of_fixed_width_are_passed_over():
    message = b"\x09" + bytes(8) + b"\x15" + bytes(4) + b"\x1a\x01x" + b"\x20\x96\x01"
    fields = list(metagraph.fields(memoryview(message)))
    assert fields == [(1, bytes(8)), (2, bytes(4)), (3, b"x"), (4, 150)]


# Files


@pytest.mark.parametrize("strings", [STRINGS, [], b"scalar", [[b"a"], [b""]]])
def test_packed_bytes_unpack(strings):
    packed = npz.pack_bytes(strings)
    assert packed["bytes"].dtype == np.uint8
    assert packed["lengths"].dtype == np.int64
    assert npz.unpack_bytes(packed).tolist() == strings


@pytest.mark.parametrize(
    ("data", "lengths"),
    [
        (np.zeros(3, np.uint8), np.array([1, 1])),
        (np.zeros(3, np.uint8), np.array([4])),
        (np.zeros(3, np.uint8), np.array([-1, 4])),
        (np.zeros(3, np.uint8), np.array([2**62] * 4 + [3])),  # 3, in 64 bits
        (np.zeros(3, np.int8), np.array([3])),
        (np.zeros(3, np.uint8), np.array([3], np.int32)),
    ],
)
def test_lengths_that_do_not_add_up_are_refused(data, lengths):
    with pytest.raises(SavedModelError, match="packed: must be"):
        npz.unpack_bytes({"bytes": data, "lengths": lengths})


def test_arrays_come_back_from_a_file(tmp_path):
    arrays = {name: np.array([[0, 1]], dtype) for name, dtype in NUMBERS.items()}
    arrays |= {"file": objects([[b"a"], [b"\0"]]), "allow_pickle": np.float32(3)}
    arrays |= {"odd.lengths": np.arange(3)}
    npz.write_npz(tmp_path / "arrays", arrays)
    back = npz.read_npz(tmp_path / "arrays")
    assert back.keys() == arrays.keys()
    for name, value in arrays.items():
        if name == "bfloat16":
            value = value.view("V2")
        assert back[name].dtype == value.dtype
        assert back[name].tolist() == value.tolist()
    with np.load(tmp_path / "arrays") as file:
        assert {"file.bytes", "file.lengths", "int64"} <= set(file.files)


def test_files_of_other_things_are_refused(tmp_path):
    path = tmp_path / "inputs.npz"
    with pytest.raises(SavedModelError, match=r"inputs\.npz: .*No such file"):
        npz.read_npz(path)
    np.savez(path, x=objects([b"pickled"]))
    with pytest.raises(SavedModelError, match=r"inputs\.npz: Object arrays"):
        npz.read_npz(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(SavedModelError, match=r"inputs\.npz: File is not a zip"):
        npz.read_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"not an array")
    with pytest.raises(SavedModelError, match=r"inputs\.npz: .*magic"):
        npz.read_npz(path)
    np.savez(path, x=np.arange(1000))
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    with pytest.raises(SavedModelError, match=r"inputs\.npz: Bad CRC"):
        npz.read_npz(path)


# In a process of its own

# runs the script and then says what is imported
IMPORTS = """
import runpy, sys
script, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(script, run_name="__main__")
print(*sys.modules)
"""
LIGHT = {"keras_resnet", "keras_resnet.config", "keras_resnet.errors"}


def test_the_script_imports_no_tensorflow_and_no_layer(folder, tmp_path, net):
    source, target = tmp_path / "in.npz", tmp_path / "out.npz"
    npz.write_npz(source, {"s": objects(STRINGS), "n": np.arange(4)})
    done = python("-c", IMPORTS, SCRIPT, folder, "text", source, target)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert "numpy" in imported
    assert not imported & {"tensorflow", "keras", "ml_dtypes"}
    own = {name for name in imported if name.startswith("keras_resnet")} - LIGHT
    assert own == {"keras_resnet.export"} | {
        f"keras_resnet.export.{name}" for name in ("libtensorflow", "metagraph", "npz")
    }
    outputs = npz.read_npz(target)
    expected = net.text(tf.constant(STRINGS), tf.constant(np.arange(4)))
    assert outputs.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(outputs[key], value.numpy())


def test_the_script_says_nothing_and_answers_any_batch(folder, tmp_path, net):
    source, target = tmp_path / "in.npz", tmp_path / "out.npz"
    for count in (0, 5):
        np.savez(source, x=rows(count))
        done = python("-m", SCRIPT, folder, "serving_default", source, target)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        with np.load(target) as outputs:
            expected = net.project(tf.constant(rows(count)))["y"]
            np.testing.assert_array_equal(outputs["y"], expected)


def test_the_script_passes_bfloat16_on(folder, tmp_path):
    inputs = {name: np.ones(2, dtype) for name, dtype in NUMBERS.items()}
    source, target = tmp_path / "in.npz", tmp_path / "out.npz"
    npz.write_npz(source, inputs)
    done = python("-m", SCRIPT, folder, "numbers", source, target)
    assert done.returncode == 0, done.stderr
    outputs = npz.read_npz(target)
    assert {key: it.tobytes() for key, it in outputs.items()} == {
        key: it.tobytes() for key, it in inputs.items()
    }


FAILURES = [
    ([], "must have FOLDER SIGNATURE INPUTS.npz OUTPUTS.npz"),
    (["{}", "serving_default", "none.npz", "out"], "none.npz: [Errno 2] No such"),
    (["missing", "serving_default", "x.npz", "out"], "Could not find SavedModel"),
    (["{}", "serve", "x.npz", "out"], "signature='serve': must be one of "),
    (["{}", "text", "x.npz", "out"], "text takes n, s: missing n, s, unexpected x"),
    (["{}", "serving_default", "bad.npz", "out"], "Matrix size-incompatible"),
    (["{}", "serving_default", "x.npz", "no/out"], "[Errno 2] No such file or dir"),
]
# runs the script with each list of arguments
FAIL = """
import json, runpy, sys
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        runpy.run_module("keras_resnet.export.savedmodel", run_name="__main__")
    except SystemExit as exit_:
        print(exit_.code, file=sys.stderr)
    print("next", file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize("log_level", ["0", "3"])
def test_the_script_fails_in_its_last_line(folder, tmp_path, monkeypatch, log_level):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=X)
    np.savez("bad.npz", x=X[:, :2])
    cases = [[it.format(folder) for it in words] for words, _ in FAILURES]
    done = python("-c", FAIL, json.dumps(cases), TF_CPP_MIN_LOG_LEVEL=log_level)
    assert (done.returncode, done.stdout) == (0, "")
    parts = done.stderr.split("next\n")[:-1]
    for (words, message), part in zip(FAILURES, parts, strict=True):
        *log, last = part.splitlines()
        assert last.startswith("savedmodel: "), words
        assert message in last, words
        assert not any(line.startswith(("savedmodel", "Traceback")) for line in log)
    assert not Path("out").exists()
    done = python("-m", SCRIPT, TF_CPP_MIN_LOG_LEVEL=log_level)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"savedmodel: {FAILURES[0][1]}\n"


def test_the_package_is_looked_for_and_not_run(tmp_path):
    package = tmp_path / "tensorflow"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('it was run')")
    np.savez(tmp_path / "x.npz", x=X)
    arguments = ("folder", "serving_default", tmp_path / "x.npz", tmp_path / "out.npz")
    done = python("-m", SCRIPT, *arguments, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("savedmodel: no libtensorflow_cc.so.2 or ")
    assert str(package) in done.stderr
    (package / "libtensorflow_cc.so.2").write_text("not a library")
    (package / "libtensorflow_cc.2.dylib").write_text("not a library")
    done = python("-m", SCRIPT, *arguments, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"savedmodel: {package}")
    assert "cannot be used: " in done.stderr


# A leak of the numbers or the strings of a run, 4 MB each, would be 200 MB; one of a
# load, with the strings that its variable keeps, 80 MB.
MEMORY = """
import os, sys
import numpy as np
from keras_resnet.errors import SavedModelError
from keras_resnet.export.libtensorflow import live_strings
from keras_resnet.export.savedmodel import SavedModel

def resident():  # MB
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6

def grown(body, warm_up, times):
    for _ in range(warm_up):
        body()
    before = resident()
    for _ in range(times):
        body()
    return resident() - before

x = np.ones((350_000, 3), np.float32)
s = [b"a" * 65536] * 64
n = np.zeros(1, np.int64)

def run():
    model.run("serving_default", x=x)
    model.run("text", s=s, n=n)
    model.run("keep", s=s)
    try:
        model.run("serving_default", x=x[:, :2])
    except SavedModelError:
        pass

def load():
    with SavedModel(sys.argv[1]) as model:
        model.run("keep", s=s)

with SavedModel(sys.argv[1]) as model:
    print(grown(run, 10, 50))
print(grown(load, 5, 20))
print(len(live_strings))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat(folder):
    done = python("-c", MEMORY, folder)
    assert done.returncode == 0, done.stderr
    runs, loads, kept = done.stdout.split()
    assert float(runs) < 60  # MB
    assert float(loads) < 40
    assert kept == "0"
