"""What differs between the backends: who has the GPUs, and how memory runs out."""

import os
import subprocess
import sys

import pytest
import tensorflow as tf

from keras_resnet import train
from keras_resnet.backend import is_out_of_memory, keras
from keras_resnet.errors import RunError

ON_JAX = """
import tensorflow as tf
hidden = []
tf.config.set_visible_devices = lambda *of: hidden.append(of)
from keras_resnet.data import open_source
from keras_resnet.backend import is_out_of_memory
assert hidden == [([], "GPU")]
import jax
try:
    jax.numpy.zeros([2**45]).block_until_ready()
except Exception as error:
    assert is_out_of_memory(error)
    print("out of memory")
"""


@pytest.mark.slow
def test_jax_has_the_gpu_for_itself_and_its_lack_of_memory_is_known():
    done = subprocess.run(
        [sys.executable, "-c", ON_JAX],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out of memory\n"


def test_full_disk_is_no_lack_of_memory():
    full = tf.errors.ResourceExhaustedError(None, None, "/x: No space left on device")
    assert not is_out_of_memory(full)
    assert is_out_of_memory(MemoryError())


class Greedy(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        tf.zeros([2**45])  # 128 TiB, which TensorFlow asks the system for


@pytest.mark.slow
def test_lack_of_memory_is_a_line_that_says_what_takes_less(tiny, folder, tmp_path):
    said = r"out of memory with batch_size=8, accumulate=1, train_size=32.*: use a "
    with pytest.raises(RunError, match=said):
        train.fit(tiny, folder, tmp_path / "run", callbacks=[Greedy()])
