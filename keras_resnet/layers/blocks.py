"""The residual blocks: what a block is, and how the two kinds differ."""

from __future__ import annotations

from typing import Any

from keras_resnet.backend import keras, layers
from keras_resnet.config import SE_RATIO, grouped_width
from keras_resnet.layers.attention import ATTENTION
from keras_resnet.layers.composite import Composite, Shape, build_in_order, strided
from keras_resnet.layers.convolution import ConvNorm
from keras_resnet.layers.pooling import BlurPool
from keras_resnet.layers.recomputation import recomputable
from keras_resnet.layers.shortcuts import SHORTCUTS


class _ResidualBlock(Composite):
    """relu(drop_path(attention(branch(x))) + shortcut(x)).

    The shortcut is decided from the input's shape when the block is built: the identity
    where the shapes agree, unless `project`; else the kind that `shortcut` names.
    """

    expansion: int  # channels that come out, over `filters`
    recomputes = False  # in training; an attribute, which no config and no file has

    def __init__(
        self,
        filters: int,
        stride: int = 1,
        dilation: int = 1,
        first_dilation: int | None = None,
        groups: int = 1,
        group_width: int = 64,
        shortcut: str = "avg_pool",
        project: bool = False,
        stride_on_first: bool = False,
        attention: str | None = None,
        zero_gamma: bool = True,
        drop_path: float = 0.0,
        fused_batch_norm: bool | None = True,
        anti_alias: str | None = None,
        se_ratio: float = SE_RATIO,
        reduce_first: int = 1,
        projection_size: int = 1,
        normalization: str = "batch",
        **kwargs: Any,
    ):
        super().__init__(
            {
                "filters": filters,
                "stride": stride,
                "dilation": dilation,
                "first_dilation": first_dilation,
                "groups": groups,
                "group_width": group_width,
                "shortcut": shortcut,
                "project": project,
                "stride_on_first": stride_on_first,
                "attention": attention,
                "zero_gamma": zero_gamma,
                "drop_path": drop_path,
                "fused_batch_norm": fused_batch_norm,
                "anti_alias": anti_alias,
                "se_ratio": se_ratio,
                "reduce_first": reduce_first,
                "projection_size": projection_size,
                "normalization": normalization,
            },
            **kwargs,
        )
        for name, allowed in (
            ("shortcut", [*SHORTCUTS, "none"]),
            ("attention", ATTENTION),
            ("anti_alias", (None, "avg", "blur")),
        ):
            if (value := self.arguments[name]) not in allowed:
                raise ValueError(f"{name}={value!r}: must be one of {list(allowed)}")
        if se_ratio != SE_RATIO and attention != "se":
            raise ValueError(
                f"se_ratio={se_ratio}, attention={attention!r}: only 'se' has a ratio"
            )
        if projection_size > 1 and shortcut in ("zero_pad", "none"):
            raise ValueError(
                f"projection_size={projection_size}, shortcut={shortcut!r}: it has no "
                "convolution"
            )
        if shortcut == "none" and (zero_gamma or drop_path):
            raise ValueError(
                f"shortcut='none', zero_gamma={zero_gamma}, drop_path={drop_path}: the "
                "block would give zeros; give zero_gamma=False and drop_path=0"
            )
        first_dilation = first_dilation or dilation
        self.anti_alias = None
        if anti_alias:
            self.anti_alias = self._smoothing(anti_alias, first_dilation != dilation)
        self._make_convolutions(first_dilation)
        self.attention = None
        if attention:
            options = {"ratio": se_ratio} if attention == "se" else {}
            self.attention = self.make(
                ATTENTION[attention], name="attention", **options
            )
        # a whole-sample dropout is stochastic depth (arXiv 1603.09382)
        self.drop_path = self.make(
            layers.Dropout, drop_path, noise_shape=(None, 1, 1, 1), name="drop_path"
        )
        self.relu = self.make(layers.ReLU, name="relu")

    def _make_convolutions(self, first_dilation: int) -> None:
        raise NotImplementedError

    def _smoothing(self, kind: str, dilates: bool) -> Any:
        """What follows the 3x3 that would stride, and strides in its place."""
        stride = self.arguments["stride"]
        if stride == 1 and not (kind == "blur" and dilates):
            raise ValueError(
                f"anti_alias={kind!r}, stride={stride}: nothing strides that could be "
                "smoothed; only a block of stride 2 has it"
            )
        if self.arguments["stride_on_first"]:
            raise ValueError(
                f"anti_alias={kind!r}, stride_on_first=True: it is the 3x3 that is "
                "smoothed; leave out either"
            )
        if kind == "blur":
            return self.make(BlurPool, stride, name="anti_alias")
        return self.make(
            layers.AveragePooling2D, stride, padding="same", name="anti_alias"
        )

    def _norm(self) -> dict[str, Any]:
        return {
            name: self.arguments[name] for name in ("fused_batch_norm", "normalization")
        }

    def _conv(self, name: str, filters: int, *args: int, **kwargs: Any) -> ConvNorm:
        return self.make(ConvNorm, filters, *args, name=name, **self._norm(), **kwargs)

    def _build(self, input_shape: Shape, *branch: Any) -> None:
        stride, kind = self.arguments["stride"], self.arguments["shortcut"]
        filters = self.arguments["filters"] * self.expansion
        same_shape = stride == 1 and input_shape[-1] == filters
        self.shortcut = None
        if kind == "none":
            pass
        elif same_shape and not self.arguments["project"]:
            self.shortcut = self.make(layers.Identity, name="shortcut")
        else:
            options = {} if kind == "zero_pad" else self._norm()
            if (size := self.arguments["projection_size"]) > 1:
                dilation = (
                    self.arguments["first_dilation"] or self.arguments["dilation"]
                )
                options |= {"kernel_size": size, "dilation": dilation}
            self.shortcut = self.make(
                SHORTCUTS[kind], filters, stride, name="shortcut", **options
            )
        if self.shortcut:
            self.shortcut.build(input_shape)
        build_in_order(input_shape, *branch, self.drop_path)
        self.built = True

    def _joined(self, y: Any, inputs: Any) -> Any:
        """The branch's result with the shortcut, rectified."""
        y = self.drop_path(y)
        return self.relu(y + self.shortcut(inputs) if self.shortcut else y)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        filters = self.arguments["filters"] * self.expansion
        return strided(input_shape, self.arguments["stride"], filters)


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
        groups: of the 3x3, which then has filters * group_width / 64 * groups channels
            (ResNeXt, arXiv 1611.05431).
        group_width: of each group at 64 filters.
        shortcut: "avg_pool", "projection" or "zero_pad", where the shapes differ; or
            "none" for a plain block, without any.
        project: also where they agree (option C, and Paddle's basic nets).
        attention: None, "se" or "eca", after the last normalization.
        zero_gamma: that normalization's gamma starts at zero (section 3.1), so that the
            block starts as its shortcut.
        drop_path: probability that a sample skips the branch in training.
        fused_batch_norm: as `ConvNorm`'s.
        normalization: as `ConvNorm`'s.
        anti_alias: "avg" or "blur" to let the 3x3 compute at stride 1, and an average
            pool or a `BlurPool` stride behind its ReLU.
        se_ratio: of "se", inner over outer channels.
        reduce_first: divides the channels of `conv1`; SENet-154 has 2.
        projection_size: kernel of the shortcut's convolution; SENet-154 has 3.

    Raises:
        ValueError: another choice than those, or `anti_alias` where nothing strides.
    """

    expansion = 4

    def _make_convolutions(self, first_dilation: int) -> None:
        a = self.arguments
        width = grouped_width(a["filters"], a["groups"], a["group_width"])
        if a["stride_on_first"]:  # the 3x3 is on the stage's own grid already
            strides, dilation = (a["stride"], 1), a["dilation"]
        else:
            strides, dilation = (1, a["stride"]), first_dilation
        if self.anti_alias:
            strides = (1, 1)
        self.conv1 = self._conv("conv1", width // a["reduce_first"], 1, strides[0])
        self.conv2 = self._conv(
            "conv2", width, 3, strides[1], dilation=dilation, groups=a["groups"]
        )
        self.conv3 = self._conv(
            "conv3", 4 * a["filters"], 1, relu=False, zero_gamma=a["zero_gamma"]
        )

    def build(self, input_shape: Shape) -> None:
        smoothed = self.conv2, self.anti_alias
        self._build(input_shape, self.conv1, *smoothed, self.conv3, self.attention)

    @recomputable
    def call(self, inputs: Any) -> Any:
        y = self.conv1(inputs)
        y = self.conv2(y)
        y = self.anti_alias(y) if self.anti_alias else y
        y = self.conv3(y)  # without ReLU
        y = self.attention(y) if self.attention else y
        return self._joined(y, inputs)


@keras.saving.register_keras_serializable(package="keras_resnet")
class BasicBlock(_ResidualBlock):
    """Two 3x3 convolutions around a shortcut: the block of depths 18 and 34.

    [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), filters]. arXiv 1512.03385
    figure 5, with ResNet-D's shortcut by default. Arguments as `BottleneckBlock`'s, but
    for `groups`, `group_width`, `reduce_first` and `stride_on_first`, which only a
    bottleneck has.
    """

    expansion = 1

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> BasicBlock:
        # files of former versions may have another `group_width`, of no effect
        return super().from_config({**config, "group_width": 64})

    def _make_convolutions(self, first_dilation: int) -> None:
        a = self.arguments
        usual = {"groups": 1, "group_width": 64, "reduce_first": 1}
        usual["stride_on_first"] = False
        if any(a[name] != value for name, value in usual.items()):
            given = ", ".join(f"{name}={a[name]}" for name in usual)
            raise ValueError(
                f"{given}: a basic block has none of these; use BottleneckBlock"
            )
        stride = 1 if self.anti_alias else a["stride"]
        self.conv1 = self._conv(
            "conv1", a["filters"], 3, stride, dilation=first_dilation
        )
        self.conv2 = self._conv(
            "conv2",
            a["filters"],
            3,
            relu=False,
            zero_gamma=a["zero_gamma"],
            dilation=a["dilation"],
        )

    def build(self, input_shape: Shape) -> None:
        smoothed = self.conv1, self.anti_alias
        self._build(input_shape, *smoothed, self.conv2, self.attention)

    @recomputable
    def call(self, inputs: Any) -> Any:
        y = self.conv1(inputs)
        y = self.anti_alias(y) if self.anti_alias else y
        y = self.conv2(y)  # without ReLU
        y = self.attention(y) if self.attention else y
        return self._joined(y, inputs)


BLOCKS = {"basic": BasicBlock, "bottleneck": BottleneckBlock}
