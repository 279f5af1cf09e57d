"""Every kind of weights file reads back exactly, and says so when it cannot."""

import collections
import io
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import weight_files
from checkpoints import GOLDENS, checkpoint

from keras_resnet.errors import WeightsError
from keras_resnet.weights.readers import (
    check_values,
    read,
    tf_checkpoint,
    tf_checkpoint_process,
)
from keras_resnet.weights.readers.archive import Archive


@pytest.fixture
def tensors():
    """Of several ranks and dtypes, among them the odd ones of a real state dict."""
    generator = np.random.default_rng(0)
    return {
        "conv1.0.weight": generator.standard_normal((4, 3, 3, 3), np.float32),
        "conv1.1.running_var": np.full(4, 0.5, np.float32),
        "conv1.1.num_batches_tracked": np.array(7, np.int64),
        "double": generator.standard_normal((2, 1)),
        "half": np.arange(6, dtype=np.float16).reshape(1, 2, 3),
        "bytes": np.arange(5, dtype=np.uint8),
        "fc.weight": generator.standard_normal((5, 4), np.float32),
    }


@pytest.fixture
def no_scalar(tensors):
    """mxnet of old has no rank 0."""
    del tensors["conv1.1.num_batches_tracked"]
    return tensors


def assert_same(read_back, written):
    assert set(read_back) == set(written)
    for name, array in written.items():
        assert read_back[name].dtype == array.dtype, name
        np.testing.assert_array_equal(read_back[name], array, err_msg=name, strict=True)


# real files


def test_a_file_that_mxnet_wrote_reads_exactly():
    truth = checkpoint("gluon/resnet50_v1d")
    half = {"half": np.arange(12, dtype=np.float16).reshape(3, 4)}
    sample = read(GOLDENS / "gluon/mxnet_sample.params")
    assert len(sample) == 16
    assert_same(sample, {name: ({**truth, **half})[name] for name in sample})


def test_a_file_that_paddle_wrote_reads_exactly():
    truth = checkpoint("paddle/ResNet18_vd")
    sample = read(GOLDENS / "paddle/paddle_sample.pdparams")
    assert len(sample) == 16
    assert_same(sample, {name: truth[name] for name in sample})


# safetensors


def test_safetensors_reads_exactly(tensors, tmp_path):
    safetensors.numpy.save_file(tensors, tmp_path / "it.safetensors")
    assert_same(read(tmp_path / "it.safetensors"), tensors)


# as a pickle of protocol 2, 4 and 5, mxnet's list, and a zip begin
@pytest.mark.parametrize("length", [0x280, 0x480, 0x580, 0x112, 0x4B50])
def test_safetensors_whose_length_looks_like_another_magic_number_reads_exactly(
    length, tmp_path
):
    header = '{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'.ljust(
        length
    )
    content = weight_files.safetensors(header, np.ones(1, "<f4").tobytes())
    (tmp_path / "it").write_bytes(content)
    assert_same(read(tmp_path / "it"), {"x": np.ones(1, np.float32)})


def test_safetensors_bfloat16_is_read_as_float32(tmp_path):
    values = np.array([[1, -2.5], [0.15625, 3e38]], np.float32)
    values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    header = '{"x": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}'
    data = weight_files.bfloat16_bits(values).tobytes()
    (tmp_path / "it.safetensors").write_bytes(weight_files.safetensors(header, data))
    assert_same(read(tmp_path / "it.safetensors"), {"x": values})


# torch


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".h5", ""])
def test_torch_zip_reads_exactly_under_any_name(suffix, tensors, tmp_path):
    weight_files.write_torch(tmp_path / f"it{suffix}", tensors)
    assert_same(read(tmp_path / f"it{suffix}"), tensors)


@pytest.mark.parametrize("key", ["state_dict", "model", "state_dict_ema", "model_ema"])
def test_a_training_checkpoint_yields_its_state_dict(key, tensors, tmp_path):
    def wrap(state):
        return weight_files.mapping(
            {
                "epoch": weight_files.integer(3),
                key: state,
                "arch": weight_files.text("x"),
            }
        )

    weight_files.write_torch(tmp_path / "it.pth", tensors, wrap)
    assert_same(read(tmp_path / "it.pth"), tensors)


def test_averaged_weights_are_taken_before_others(tmp_path):
    states = {
        key: weight_files.mapping({"x": weight_files.torch_tensor(str(i), value)})
        for i, (key, value) in enumerate(
            {
                "state_dict": np.zeros(1, "f4"),
                "state_dict_ema": np.ones(1, "f4"),
            }.items()
        )
    }
    storages = {"0": np.zeros(1, "f4"), "1": np.ones(1, "f4")}
    weight_files.torch_zip(tmp_path / "it", weight_files.mapping(states), storages)
    assert_same(read(tmp_path / "it"), {"x": np.ones(1, "f4")})


def test_torch_views_share_a_storage_with_any_strides_and_offset(tmp_path):
    values = np.arange(60, dtype=np.float32)
    whole = values.reshape(3, 4, 5)
    made = weight_files.storage("0", 60)
    body = weight_files.mapping(
        {
            "whole": weight_files.tensor(made, (3, 4, 5), (20, 5, 1)),
            "transposed": weight_files.tensor(made, (5, 3, 4), (1, 20, 5)),
            "slice": weight_files.tensor(made, (2, 2, 2), (20, 10, 1), offset=21),
            "old": weight_files.tensor(made, (2,), (1,), 58, "_rebuild_tensor"),
            "empty": weight_files.tensor(made, (0, 3), (3, 1), offset=60),
        }
    )
    weight_files.torch_zip(tmp_path / "it", body, {"0": values})
    views = {
        "whole": whole,
        "transposed": whole.transpose(2, 0, 1),
        "slice": whole[1:, ::2, 1:3],
        "old": values[58:],
        "empty": np.zeros((0, 3), np.float32),
    }
    assert_same(read(tmp_path / "it"), views)


def test_torch_parameters_are_their_tensors(tmp_path):
    made = weight_files.torch_tensor("0", np.ones(3, np.float32))
    rebuild = weight_files.name("torch._utils", "_rebuild_parameter")
    made = weight_files.call(rebuild, made, b"\x88", weight_files.ORDERED)
    body = weight_files.mapping({"x": made})
    weight_files.torch_zip(tmp_path / "it", body, {"0": np.ones(3, np.float32)})
    assert_same(read(tmp_path / "it"), {"x": np.ones(3, np.float32)})


def test_torch_bfloat16_is_read_as_float32(tmp_path):
    values = np.array([1, -0.5, 3], np.float32)
    bits = weight_files.bfloat16_bits(values)
    made = weight_files.torch_tensor("0", bits, "BFloat16Storage")
    weight_files.torch_zip(
        tmp_path / "it", weight_files.mapping({"x": made}), {"0": bits}
    )
    assert_same(read(tmp_path / "it"), {"x": values})


def test_torch_before_1_6_is_told_how_to_save_again(tmp_path):
    magic = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
    (tmp_path / "old.pth").write_bytes(magic + b"\x80\x02M\xe9\x03.")
    with pytest.raises(WeightsError, match=r"old\.pth.*torch\.save\(torch\.load"):
        read(tmp_path / "old.pth")


def test_a_torchscript_program_is_not_a_state_dict(tmp_path):
    made = {"x": weight_files.torch_tensor("0", np.ones(1, "f4"))}
    body, extra = weight_files.mapping(made), [("archive/code/net.py", "1")]
    weight_files.torch_zip(tmp_path / "it", body, {"0": np.ones(1, "f4")}, extra=extra)
    with pytest.raises(WeightsError, match="TorchScript"):
        read(tmp_path / "it")


# mxnet


@pytest.mark.parametrize("header", ["old", "V1", "V2", "V3"])
def test_mxnet_headers_of_every_age_read_exactly(header, no_scalar, tmp_path):
    del no_scalar["double"], no_scalar["bytes"]
    weight_files.write_mxnet(tmp_path / "it.params", no_scalar, header)
    assert_same(read(tmp_path / "it.params"), no_scalar)


def test_mxnet_scalars_of_the_numpy_kind_read_exactly(tmp_path):
    weight_files.write_mxnet(tmp_path / "it.params", {"x": np.array(7, "<i8")}, "V3")
    assert_same(read(tmp_path / "it.params"), {"x": np.array(7, "<i8")})


@pytest.mark.parametrize("prefix", ["arg:", "aux:"])
def test_mxnet_prefixes_of_the_symbol_api_are_dropped(prefix, no_scalar, tmp_path):
    weight_files.write_mxnet(tmp_path / "it.params", no_scalar, prefix=prefix)
    assert_same(read(tmp_path / "it.params"), no_scalar)


# Paddle


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("tuples", [False, True])
def test_paddle_pickles_of_every_protocol_read_exactly(
    protocol, tuples, tensors, tmp_path
):
    weight_files.write_paddle(tmp_path / "it.pdparams", tensors, protocol, tuples)
    assert_same(read(tmp_path / "it.pdparams"), tensors)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_paddle_arrays_in_other_orders_read_exactly(protocol, tmp_path):
    values = np.arange(24.0).reshape(2, 3, 4)
    arrays = {
        "fortran": np.asfortranarray(values),
        "view": values[:, ::2],
        "big": values.astype(">f4"),
        "empty": np.zeros((0, 2)),
    }
    weight_files.write_paddle(tmp_path / "it.pdparams", arrays, protocol)
    assert_same(read(tmp_path / "it.pdparams"), arrays)


# numpy and Keras


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_reads_exactly(save, tensors, tmp_path):
    tensors["fortran/big"] = np.asfortranarray(tensors["fc.weight"]).astype(">f4")
    save(tmp_path / "it.npz", **tensors)
    assert_same(read(tmp_path / "it.npz"), tensors)


def test_npz_bfloat16_is_read_as_float32(tmp_path):
    values = np.array([[1, -0.5, 3]], np.float32)
    np.savez(tmp_path / "it.npz", x=values.astype(ml_dtypes.bfloat16))
    assert_same(read(tmp_path / "it.npz"), {"x": values})


def nested(tensors):
    return {name.replace(".", "/"): array for name, array in tensors.items()}


def test_hdf5_reads_exactly_by_path(tensors, tmp_path):
    with h5py.File(tmp_path / "it.weights.h5", "w") as file:
        for name, array in nested(tensors).items():
            file[name] = array
    assert_same(read(tmp_path / "it.weights.h5"), nested(tensors))


def test_hdf5_bfloat16_is_read_as_float32(tmp_path):
    values = np.array([1, -0.5, 3], np.float32)
    with h5py.File(tmp_path / "it.weights.h5", "w") as file:
        file["vars/0"] = weight_files.bfloat16_bits(values).view("V2")
    assert_same(read(tmp_path / "it.weights.h5"), {"vars/0": values})


def test_keras_archive_yields_the_weights_inside(tensors, tmp_path):
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        for name, array in nested(tensors).items():
            file[name] = array
    with zipfile.ZipFile(tmp_path / "it.keras", "w") as file:
        file.writestr("config.json", "{}")
        file.writestr("model.weights.h5", image.getvalue())
    assert_same(read(tmp_path / "it.keras"), nested(tensors))


# TensorFlow


def test_tensorflow_checkpoint_of_the_277_slim_names_reads_exactly(tmp_path):
    scope = "resnet50_v1d/"
    truth = {
        name if name.startswith("logits") else scope + name.removeprefix(scope): value
        for name, value in checkpoint("slim/resnet50_v1d").items()
    }
    truth["global_step"] = np.array(12, np.int64)
    weight_files.write_checkpoint(tmp_path / "model.ckpt-12", truth)
    assert len(truth) == 278
    assert_same(read(tmp_path / "model.ckpt-12"), truth)


def dumped(prefix, stored=2**20):
    """What the program that reads checkpoints writes, in this process."""
    import tensorflow as tf

    out = prefix.with_suffix(".npz")
    tf_checkpoint_process.dump(tf, str(prefix), out, stored)
    with np.load(out) as arrays:
        return dict(arrays)


def test_tensorflow_bfloat16_is_read_as_float32_and_bookkeeping_dropped(tmp_path):
    import tensorflow as tf

    half = tf.constant([1.0, -0.5], tf.bfloat16)
    graph = tf.constant("the objects of tf.train.Checkpoint")
    values = {"x": half, "_CHECKPOINTABLE_OBJECT_GRAPH": graph}
    weight_files.write_checkpoint(tmp_path / "it", values)
    arrays = dumped(tmp_path / "it")
    names = np.frombuffer(b"x", np.uint8)
    assert_same(arrays, {"0": np.array([1, -0.5], "f4"), "names": names})


def test_tensorflow_strings_are_refused_by_name(tmp_path):
    weight_files.write_checkpoint(tmp_path / "it", {"words": np.array([b"x"])})
    with pytest.raises(ValueError, match="'words' is of dtype string"):
        dumped(tmp_path / "it")


def test_tensorflow_sizes_are_compared_before_reading(tmp_path):
    weight_files.write_checkpoint(tmp_path / "it", {"x": np.ones(100, np.float32)})
    with pytest.raises(
        ValueError, match="400 bytes are declared, but the shards have 3"
    ):
        dumped(tmp_path / "it", stored=399)


def test_tensorflow_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    (tmp_path / "slow.index").touch()
    monkeypatch.setattr(tf_checkpoint, "_TIMEOUT", 0.01)
    with pytest.raises(WeightsError, match=r"slow: TensorFlow did not read it within"):
        read(tmp_path / "slow")


@pytest.mark.slow
def test_a_damaged_tensorflow_checkpoint_is_refused_with_the_reason(tmp_path):
    (tmp_path / "damaged.index").write_bytes(b"not a table" * 20)
    with pytest.raises(WeightsError, match=r"damaged: TensorFlow cannot read it: \w+"):
        read(tmp_path / "damaged")


# values, and files that are none of these


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_values_that_are_not_finite_are_refused_by_name(value, dtype, tmp_path):
    broken = np.ones(3, dtype)
    broken[1] = value
    np.savez(tmp_path / "it.npz", good=np.ones(3), broken=broken)
    with pytest.raises(WeightsError, match=r"'broken' has NaN or infinite") as refusal:
        read(tmp_path / "it.npz")
    assert "'good'" not in str(refusal.value)
    assert len(read(tmp_path / "it.npz", check=False)) == 2


@pytest.mark.parametrize(
    "name",
    [
        "bn1.running_var",
        "C1/conv0/BatchNorm/moving_variance",
        "bn._variance",
        "bnv1_1_variance",
        "bn/moving_variance:0",
    ],
)
@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0, -1.0]])
def test_variances_that_are_negative_or_all_zero_are_refused_by_name(name, values):
    with pytest.raises(WeightsError, match="is a variance") as refusal:
        check_values({name: np.array(values), "beta": np.array(values)})
    assert repr(name) in str(refusal.value)
    assert "beta" not in str(refusal.value)
    # of a channel that always gives the same, as a ReLU that died makes it
    check_values({name: np.array([1.0, 0.0]), "beta": np.zeros(2)})


def test_every_broken_tensor_is_listed():
    broken = {f"x{index}": np.array([np.nan]) for index in range(30)}
    with pytest.raises(WeightsError) as refusal:
        check_values(broken)
    assert all(repr(name) in str(refusal.value) for name in broken)


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html>", b"\x93NUMPY\x01\x00", b"cos\n"]
)
def test_what_is_no_weights_file_is_refused_with_the_kinds_that_are(content, tmp_path):
    (tmp_path / "it.pth").write_bytes(content)
    with pytest.raises(
        WeightsError, match=r"it\.pth: .* begins with .*safetensors, torch"
    ):
        read(tmp_path / "it.pth")


def test_a_missing_file_is_refused_with_what_to_give(tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.pth: no such file.*give the path"):
        read(tmp_path / "gone.pth")


def test_a_folder_and_a_device_are_no_files(tmp_path):
    for path in (tmp_path, "/dev/zero"):
        with pytest.raises(WeightsError, match="no such file"):
            read(path)


def test_refusals_name_the_file_and_the_call_that_writes_a_good_one(tmp_path):
    np.savez(tmp_path / "it.npz", x=np.array([object()]))
    with pytest.raises(WeightsError, match=r"(?s)it\.npz: .*'x'.*numpy\.savez\(path"):
        read(tmp_path / "it.npz")


def test_files_without_tensors_are_refused(tmp_path):
    weight_files.write_paddle(tmp_path / "it.pdparams", {})
    with pytest.raises(WeightsError, match="holds no tensors"):
        read(tmp_path / "it.pdparams")


def test_a_zip_is_read_from_its_directory_alone():
    image = io.BytesIO()
    with zipfile.ZipFile(image, "w") as file:
        file.writestr("a", b"123")
    archive = Archive(image)
    assert archive.read("a").tobytes() == b"123"
    with pytest.raises(WeightsError, match="no member 'b'"):
        archive.read("b")
    with pytest.raises(WeightsError, match="has 3 bytes"):
        archive.read("a", limit=2)


def test_order_of_the_tensors_is_the_files(tmp_path):
    tensors = collections.OrderedDict(b=np.ones(1, "f4"), a=np.ones(2, "f4"))
    for write in (weight_files.write_torch, weight_files.write_mxnet):
        write(tmp_path / "it", tensors)
        assert list(read(tmp_path / "it")) == ["b", "a"]
