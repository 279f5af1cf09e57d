"""Layers made of layers, and the first of them: convolution with normalisation."""

import functools

from keras_resnet.backend import keras, layers, ops
from keras_resnet.config import python_scalar
from keras_resnet.layers.normalization import batch_norm


class Composite(layers.Layer):
    """A chain of layers, built explicitly and computing under one dtype policy.

    A subclass passes its constructor's arguments to `_remember` (they are its config),
    makes its parts with `_part`, and gives in `_chain` those its input runs through.

    What is changed on its parts comes back from files too: a part that is frozen,
    quantized or given LoRA, another momentum. `parts` in the config has by name what
    of a part's own config is not as this layer makes it.
    """

    def __init__(self, parts=None, **kwargs):
        super().__init__(**kwargs)
        # not as attributes of the usual kind, which Keras tracks
        self.__dict__.update(_changes=parts or {}, _makers={})

    def _remember(self, **arguments):
        self._arguments = {
            name: python_scalar(value) for name, value in arguments.items()
        }

    def _part(self, cls, *args, name, **kwargs):
        args = tuple(map(python_scalar, args))
        kwargs = {key: python_scalar(value) for key, value in kwargs.items()}
        self._makers[name] = functools.partial(cls, *args, name=name, **kwargs)
        part = self._unchanged(name)
        if changes := self._changes.get(name):
            part = type(part).from_config(part.get_config() | changes)
        return part

    def _unchanged(self, name):
        """A part as this layer makes it, which decides what is frozen within."""
        return self._makers[name](dtype=self.dtype_policy, trainable=self.trainable)

    def _chain(self):
        return []

    def build(self, input_shape):
        shape = tuple(input_shape)
        for part in self._chain():
            part.build(shape)
            shape = part.compute_output_shape(shape)
        self.built = True

    def call(self, inputs):
        x = inputs
        for part in self._chain():
            x = part(x)
        return x

    def compute_output_shape(self, input_shape):
        shape = tuple(input_shape)
        for part in self._chain():
            shape = part.compute_output_shape(shape)
        return tuple(shape)

    def get_config(self):
        config = {**super().get_config(), **self._arguments}
        # parts that `build` is still to make stay as they were said to be
        parts = {k: v for k, v in self._changes.items() if k not in self._makers}
        parts |= {
            part.name: changes
            for part in self._flatten_layers(recursive=False, include_self=False)
            if part.name in self._makers and (changes := self._changes_of(part))
        }
        # in files only where it is needed, so that they open in former versions too
        return {**config, "parts": parts} if parts else config

    def _changes_of(self, part):
        """What of a part's config is not as this layer makes it."""
        if isinstance(part, layers.Identity):  # which has no config
            return {}
        usual = self._unchanged(part.name).get_config()
        return {
            key: value
            for key, value in part.get_config().items()
            # Keras 2 rewrites the axis when a normalisation is built
            if key != "axis" and (key not in usual or value != usual[key])
        }


def he_fan_out():
    """He initialisation over the fan-out, as in timm and torchvision."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


class _GroupedConv2D(layers.Conv2D):
    """With a bias that is added by itself.

    TensorFlow fuses a BiasAdd into the convolution, and then has no kernel for groups
    on a CPU without oneDNN.
    """

    def call(self, inputs):
        outputs = self.convolution_op(inputs, self.kernel)
        # of the other order Keras makes a BiasAdd
        return ops.add(ops.reshape(self.bias, (1, 1, 1, -1)), outputs)


@keras.saving.register_keras_serializable(package="keras_resnet")
class ConvNorm(Composite):
    """Convolution without bias, batch normalisation, and ReLU unless `relu=False`.

    [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), filters]. The padding is
    (kernel_size - 1) / 2 * dilation on every side, also at stride 2, where "same" would
    pad (0, 1) on even sizes and shift the result: TF-slim's `slim.conv2d` with
    `slim.batch_norm` after an explicit `tf.pad`, and torch's convolution.

    `fused_batch_norm=None` has a bias in place of the normalisation: what
    `export.fold_batch_norm` makes.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        stride=1,
        dilation=1,
        groups=1,
        relu=True,
        zero_gamma=False,
        fused_batch_norm=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._remember(
            filters=filters,
            kernel_size=kernel_size,
            stride=stride,
            dilation=dilation,
            groups=groups,
            relu=relu,
            zero_gamma=zero_gamma,
            fused_batch_norm=fused_batch_norm,
        )
        margin = (kernel_size - 1) // 2 * dilation if stride > 1 else 0
        self.pad = None
        if margin:
            self.pad = self._part(layers.ZeroPadding2D, margin, name="pad")
        folded = fused_batch_norm is None
        self.conv = self._part(
            _GroupedConv2D if folded and groups > 1 else layers.Conv2D,
            filters,
            kernel_size,
            strides=stride,
            padding="valid" if stride > 1 else "same",
            dilation_rate=dilation,
            groups=groups,
            use_bias=folded,
            kernel_initializer=he_fan_out(),
            name="conv",
        )
        self.norm = None
        if not folded:
            self.norm = self._part(
                batch_norm,
                fused_batch_norm,
                gamma_initializer="zeros" if zero_gamma else "ones",
                name="norm",
            )
        self.relu = self._part(layers.ReLU, name="relu") if relu else None

    def _chain(self):
        return [part for part in (self.pad, self.conv, self.norm, self.relu) if part]
