"""What lies beside a model is what TensorFlow Serving's own protos say."""

import ast
import re
import sys

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,  # noqa: F401 its types go to the pool
)
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from keras_resnet import export
from keras_resnet.errors import ModelError
from keras_resnet.export import tf_serving
from keras_resnet.export.savedmodel import SavedModel


def requests(version):
    records = tf.data.TFRecordDataset(str(version / tf_serving.WARM_UP))
    for record in records.as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        yield log.predict_log.request


def test_warm_up_requests_are_those_of_both_signatures_and_run(exported):
    asked = {
        request.model_spec.signature_name: request for request in requests(exported)
    }
    with SavedModel(exported) as served:
        assert asked.keys() == served.signatures.keys()
        for signature, request in asked.items():
            assert request.model_spec.name == "my_colours"
            inputs = {key: tf.make_ndarray(it) for key, it in request.inputs.items()}
            answer = served.run(signature, **inputs)
            np.testing.assert_allclose(answer["probabilities"].sum(), 1, rtol=1e-5)
            assert answer.get("ok", np.array([True])).all()


def test_models_config_is_a_model_servers(exported):
    text = (exported.parent / tf_serving.MODELS).read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("my_colours", "/models/my_colours")
    assert model.model_platform == "tensorflow"
    assert model.model_version_policy.latest.num_versions == 1


def batching_parameters():
    """The message of session_bundle_config.proto, which no package brings."""
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto",
        package="tensorflow.serving",
        dependency=["google/protobuf/wrappers.proto"],
        syntax="proto3",
    )
    message = file.message_type.add(name="BatchingParameters")
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches")
    for number, name in enumerate((*names, "num_batch_threads"), start=1):
        message.field.add(
            name=name,
            number=number,
            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
            type=descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
            type_name=".google.protobuf.Int64Value",
        )
    pool = descriptor_pool.Default()
    pool.Add(file)
    found = pool.FindMessageTypeByName("tensorflow.serving.BatchingParameters")
    return message_factory.GetMessageClass(found)()


def test_batching_file_is_a_model_servers(exported):
    text = (exported.parent / tf_serving.BATCHING).read_text()
    parameters = text_format.Parse(text, batching_parameters())
    assert parameters.max_batch_size.value == 16
    assert parameters.batch_timeout_micros.value == 2000
    assert parameters.max_enqueued_batches.value == 64
    assert parameters.num_batch_threads.value == 2


def guide_of(version):
    return (version.parent / tf_serving.GUIDE).read_text()


def snippets_of(guide):
    return re.findall(r"```python\n(.*?)```", guide, re.S)


def test_guide_names_the_model_and_its_lines_parse(exported):
    guide = guide_of(exported)
    assert guide.startswith("# my_colours\n\nA resnet18d of 3 classes")
    assert "[N, 32, 32, 3]" in guide
    assert "/v1/models/my_colours:predict" in guide
    assert not re.findall(r"\$(?!PWD|\(base64)", guide)
    snippets = snippets_of(guide)
    assert len(snippets) == 2
    for snippet in snippets:
        ast.parse(snippet)


def test_guides_grpc_client_asks_as_the_protos_want_it(exported, tmp_path, monkeypatch):
    """The guide's own lines, with a stub for a server."""
    guide = (exported.parent / tf_serving.GUIDE).read_text()
    (snippet,) = (
        s for s in re.findall(r"```python\n(.*?)```", guide, re.S) if "grpc" in s
    )
    picture = tf.io.encode_jpeg(np.full((40, 50, 3), 90, np.uint8)).numpy()
    (tmp_path / "cat.jpg").write_bytes(picture)
    monkeypatch.chdir(tmp_path)
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    with SavedModel(exported) as served:

        class Stub:
            def __init__(self, channel):
                pass

            def Predict(self, request, timeout):
                inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
                answer = served.run(request.model_spec.signature_name, **inputs)
                response = predict_pb2.PredictResponse()
                for key, value in answer.items():
                    response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
                return response

        monkeypatch.setattr(prediction_service_pb2_grpc, "PredictionServiceStub", Stub)
        said = []
        exec(snippet, {"print": said.append})
    assert {*said[0].ravel()} == {b"blue", b"green", b"red"}


def test_warm_up_may_be_left_out_or_is_for_want_of_a_package(
    trained, quick, call, tmp_path, monkeypatch
):
    version = export.save(trained[1], tmp_path / "out", warm_up=False)
    assert not (version / "assets.extra").exists()
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    assert not tf_serving.can_warm_up()
    lines = []
    version = export.save(trained[1], tmp_path / "want", say=lines.append)
    assert not (version / "assets.extra").exists()
    assert "no warm-up requests" in lines[-1]
    trained[1].save(tmp_path / "model.keras")
    done = call("export", "model.keras", "told", cwd=tmp_path)
    assert "`pip install keras-resnet-d[serving]`" in done.out
    with pytest.raises(ModelError, match="warm_up=True: needs the package"):
        export.save(trained[1], tmp_path / "asked", warm_up=True)
    assert not (tmp_path / "asked").exists()
