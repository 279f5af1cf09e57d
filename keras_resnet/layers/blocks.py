"""The residual blocks: what a block is, and how the two kinds differ."""

from keras_resnet.backend import keras, layers
from keras_resnet.layers.attention import ATTENTION
from keras_resnet.layers.convolution import Composite, ConvNorm
from keras_resnet.layers.shortcuts import SHORTCUTS


class _ResidualBlock(Composite):
    """relu(drop_path(attention(branch(x))) + shortcut(x)).

    The shortcut is decided from the input's shape when the block is built: the identity
    where the shapes agree, unless `project`; else the kind that `shortcut` names.
    """

    expansion: int

    def __init__(
        self,
        filters,
        stride=1,
        dilation=1,
        first_dilation=None,
        groups=1,
        group_width=64,
        shortcut="avg_pool",
        project=False,
        stride_on_first=False,
        attention=None,
        zero_gamma=True,
        drop_path=0.0,
        fused_batch_norm=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value, table in (
            ("shortcut", shortcut, SHORTCUTS),
            ("attention", attention, ATTENTION),
        ):
            if value not in table:
                raise ValueError(f"{name}={value!r}: must be one of {list(table)}")
        self._remember(
            filters=filters,
            stride=stride,
            dilation=dilation,
            first_dilation=first_dilation,
            groups=groups,
            group_width=group_width,
            shortcut=shortcut,
            project=project,
            stride_on_first=stride_on_first,
            attention=attention,
            zero_gamma=zero_gamma,
            drop_path=drop_path,
            fused_batch_norm=fused_batch_norm,
        )
        self._convolutions(**self._arguments)
        self.attention = None
        if attention:
            self.attention = self._part(ATTENTION[attention], name="attention")
        # a whole-sample dropout is stochastic depth (arXiv 1603.09382)
        self.drop_path = self._part(
            layers.Dropout, drop_path, noise_shape=(None, 1, 1, 1), name="drop_path"
        )
        self.relu = self._part(layers.ReLU, name="relu")

    def _conv(self, name, filters, kernel_size, stride=1, **kwargs):
        fused = self._arguments["fused_batch_norm"]
        return self._part(
            ConvNorm,
            filters,
            kernel_size,
            stride,
            fused_batch_norm=fused,
            name=name,
            **kwargs,
        )

    def build(self, input_shape):
        options = self._arguments
        filters = options["filters"] * self.expansion
        same_shape = options["stride"] == 1 and input_shape[-1] == filters
        if same_shape and not options["project"]:
            self.shortcut = self._part(layers.Identity, name="shortcut")
        else:
            kind = SHORTCUTS[options["shortcut"]]
            batch_norm = {"fused_batch_norm": options["fused_batch_norm"]}
            self.shortcut = self._part(
                kind,
                filters,
                options["stride"],
                name="shortcut",
                **({} if options["shortcut"] == "zero_pad" else batch_norm),
            )
        self.shortcut.build(input_shape)
        super().build(input_shape)

    def call(self, inputs):
        return self.relu(super().call(inputs) + self.shortcut(inputs))


@keras.saving.register_keras_serializable(package="keras_resnet")
class BottleneckBlock(_ResidualBlock):
    """1x1, 3x3, 1x1 convolutions around a shortcut (arXiv 1812.01187 figures 1, 2).

    [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), 4 * filters]. Scopes
    `bottleneck_i/conv0, conv1, conv2, shortcut` of the TF-slim code, here `conv1`,
    `conv2`, `conv3`, `shortcut`: only `conv1` and `conv2` end in a ReLU, the last one
    comes after the sum. The stride is on the 3x3 (B, C and D), or with
    `stride_on_first` on the first 1x1 (the original, A). Defaults are ResNet-D's.

    Args:
        filters: of the 3x3; four times that come out.
        stride: of the block, 1 or 2.
        dilation: of the 3x3 (basic block: of its second).
        first_dilation: of a stage's first block, which still sees the former stage's
            grid; None is `dilation`.
        groups, group_width: a grouped 3x3 of filters * group_width / 64 * groups
            channels (ResNeXt, arXiv 1611.05431).
        shortcut: "avg_pool", "projection" or "zero_pad", where the shapes differ.
        project: also where they agree (option C, and Paddle's basic nets).
        attention: None, "se" or "eca", after the last normalisation.
        zero_gamma: that normalisation's gamma starts at zero (section 3.1), so that the
            block starts as its shortcut.
        drop_path: probability that a sample skips the branch in training.
        fused_batch_norm: False takes Keras's own normalisation.
    """

    expansion = 4

    def _convolutions(
        self,
        filters,
        stride,
        dilation,
        first_dilation,
        groups,
        group_width,
        stride_on_first,
        zero_gamma,
        **_,
    ):
        width = int(filters * group_width / 64) * groups
        first, second = (stride, 1) if stride_on_first else (1, stride)
        if stride_on_first:  # the 3x3 is on the stage's own grid already
            first_dilation = None
        self.conv1 = self._conv("conv1", width, 1, first)
        self.conv2 = self._conv(
            "conv2",
            width,
            3,
            second,
            dilation=first_dilation or dilation,
            groups=groups,
        )
        self.conv3 = self._conv(
            "conv3", 4 * filters, 1, relu=False, zero_gamma=zero_gamma
        )

    def _chain(self):
        last = [self.attention] if self.attention else []
        return [self.conv1, self.conv2, self.conv3, *last, self.drop_path]


@keras.saving.register_keras_serializable(package="keras_resnet")
class BasicBlock(_ResidualBlock):
    """Two 3x3 convolutions around a shortcut: the block of depths 18 and 34.

    [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), filters]. arXiv 1512.03385
    figure 5, with ResNet-D's shortcut by default. Arguments as `BottleneckBlock`'s, but
    for `groups`, `group_width` and `stride_on_first`, which only a bottleneck has.
    """

    expansion = 1

    @classmethod
    def from_config(cls, config):
        # files of former versions may have another `group_width`, of no effect
        return super().from_config({**config, "group_width": 64})

    def _convolutions(
        self,
        filters,
        stride,
        dilation,
        first_dilation,
        groups,
        group_width,
        stride_on_first,
        zero_gamma,
        **_,
    ):
        if groups != 1 or group_width != 64 or stride_on_first:
            raise ValueError(
                f"groups={groups}, group_width={group_width}, "
                f"stride_on_first={stride_on_first}: a basic block has none of these; "
                "use BottleneckBlock"
            )
        self.conv1 = self._conv(
            "conv1", filters, 3, stride, dilation=first_dilation or dilation
        )
        self.conv2 = self._conv(
            "conv2", filters, 3, relu=False, zero_gamma=zero_gamma, dilation=dilation
        )

    def _chain(self):
        last = [self.attention] if self.attention else []
        return [self.conv1, self.conv2, *last, self.drop_path]


BLOCKS = {"basic": BasicBlock, "bottleneck": BottleneckBlock}
