"""The names of Keras 3 that this package uses, implemented with Keras 2.15.

TensorFlow Addons needs Keras 2.15, TensorFlow 2.15 and Python 3.11 or older. Support
ends together with that of Python 3.11, on 2027-10-31; `keras_resnet.backend` will then
be removed as well.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras as keras2
import tensorflow as tf
from keras.src.engine import functional
from keras.src.mixed_precision.loss_scale_optimizer import LossScaleOptimizerV3


class _ModuleProxy:
    """A module, with some of its names replaced."""

    def __init__(self, module: Any, **names: Any) -> None:
        self._module = module
        self.__dict__.update(names)

    def __getattr__(self, name: Any) -> Any:
        return getattr(self._module, name)


def _full_like(x: Any, value: Any) -> Any:
    return tf.fill(tf.shape(x), tf.constant(value, x.dtype))


def _batch_normalization(
    x: Any, mean: Any, variance: Any, axis: Any, offset: Any, scale: Any, epsilon: Any
) -> Any:
    shape = [1] * len(x.shape)
    shape[axis] = -1
    mean, variance, offset, scale = (
        None if value is None else tf.reshape(value, shape)
        for value in (mean, variance, offset, scale)
    )
    return tf.nn.batch_normalization(x, mean, variance, offset, scale, epsilon)


def _moments(x: Any, axes: Any, synchronized: bool = False) -> Any:
    if synchronized:
        raise NotImplementedError("synchronized=True: needs Keras 3; set it to False")
    return tf.nn.moments(x, axes)


ops = SimpleNamespace(
    abs=tf.abs,
    add=tf.add,
    arange=tf.range,
    batch_normalization=_batch_normalization,
    cast=tf.cast,
    clip=tf.clip_by_value,
    convert_to_numpy=lambda x: tf.convert_to_tensor(x).numpy(),
    convert_to_tensor=tf.convert_to_tensor,
    copy=tf.identity,
    cos=tf.cos,
    einsum=tf.einsum,
    exp=tf.exp,
    full_like=_full_like,
    isfinite=tf.math.is_finite,
    log1p=tf.math.log1p,
    max=tf.reduce_max,
    maximum=tf.maximum,
    mean=tf.reduce_mean,
    minimum=tf.minimum,
    moments=_moments,
    ones_like=tf.ones_like,
    pad=tf.pad,
    power=tf.pow,
    relu=tf.nn.relu,
    reshape=tf.reshape,
    shape=tf.shape,
    softmax=tf.nn.softmax,
    sqrt=tf.sqrt,
    square=tf.square,
    stop_gradient=tf.stop_gradient,
    sum=tf.reduce_sum,
    # of the last axis, which is the only use
    take_along_axis=lambda x, indices, axis: tf.gather(x, indices, batch_dims=1),
    top_k=tf.math.top_k,
    where=tf.where,
    zeros_like=tf.zeros_like,
)


def native(variable: Any) -> Any:
    """Returns the TensorFlow variable, which in Keras 2 is the variable itself."""
    return variable


class _ModelMixin:
    """Gives Keras 2's Model the signatures of Keras 3, and its variables a `path`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self, functional.Functional):
            _name_variables(self)

    def compile(
        self,
        *args: Any,
        auto_scale_loss: bool = False,
        jit_compile: Any = "auto",
        **kwargs: Any,
    ) -> None:
        del auto_scale_loss  # in Keras 2, the optimizer scales the loss
        jit_compile = None if jit_compile == "auto" else jit_compile
        super().compile(*args, jit_compile=jit_compile, **kwargs)
        # replaces the mean of Keras 2, which covers only the compiled loss; `__dict__`
        # keeps Keras from tracking its variables as those of the model
        self.__dict__["mean_loss"] = keras2.metrics.Mean(name="loss")

    def compute_loss(
        self,
        x: Any,
        y: Any,
        y_pred: Any,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        return super().compute_loss(x, y, y_pred, sample_weight)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> Any:
        y, y_pred = tf.convert_to_tensor(y), tf.convert_to_tensor(y_pred)
        # the compiled loss creates the variables of its metrics when it is built
        if not self.compiled_loss.built:
            self.compiled_loss.build(y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def train_step(self, data: Any) -> Any:
        with tf.GradientTape() as tape:
            step = self._forward(data, training=True)
        self.optimizer.minimize(step.loss, self.trainable_variables, tape=tape)
        return self.compute_metrics(*step.arguments)

    def test_step(self, data: Any) -> Any:
        return self.compute_metrics(*self._forward(data, training=False).arguments)

    def _forward(self, data: Any, training: Any) -> Any:
        """Returns the `loss` of a batch, and the `arguments` for compute_metrics."""
        x, y, sample_weight = keras2.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=training)
        loss = self.compute_loss(x, y, y_pred, sample_weight, training=training)
        self.mean_loss.update_state(loss, sample_weight=tf.shape(y_pred)[0])
        return SimpleNamespace(loss=loss, arguments=(x, y, y_pred, sample_weight))

    @property
    def metrics(self) -> Any:
        if not hasattr(self, "mean_loss"):
            return super().metrics
        return [self.mean_loss, *(m for m in super().metrics if m.name != "loss")]

    @property
    def metrics_variables(self) -> Any:
        return [variable for metric in self.metrics for variable in metric.variables]

    def get_config(self) -> dict[str, Any]:
        # with a constructor of its own, a model has an empty config in Keras 2
        if isinstance(self, functional.Functional):
            return functional.get_network_config(self, config={"name": self.name})
        return super().get_config()

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None) -> Any:
        network = {"name", "layers", "input_layers", "output_layers", "trainable"}
        if "layers" not in config:
            return super().from_config(config, custom_objects)
        inputs, outputs, made = functional.reconstruct_from_config(
            config, custom_objects
        )
        more = {key: value for key, value in config.items() if key not in network}
        model = cls(inputs=inputs, outputs=outputs, name=config["name"], **more)
        functional.connect_ancillary_layers(model, made)
        return model


def _name_variables(model: Any) -> None:
    """Sets the `path` of each variable, such as stage1_block0/conv1/norm/gamma."""

    def walk(layer: Any, prefix: Any) -> None:
        for variable in (*layer._trainable_weights, *layer._non_trainable_weights):
            leaf = variable.name.rpartition("/")[2].partition(":")[0]
            variable.path = f"{prefix}{leaf}"
        for part in layer._flatten_layers(recursive=False, include_self=False):
            walk(part, f"{prefix}{part.name}/")

    walk(model, "")


class _Model:
    """Stands for keras.Model, and gives each subclass a base class of its own.

    Keras 2 changes the base classes of a functional model's class.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return keras2.Model(*args, **kwargs)

    def __mro_entries__(self, bases: Any) -> Any:
        return _ModelMixin, type("Model", (keras2.Model,), {})


class _Optimizer(keras2.optimizers.Optimizer):
    """A base class for optimizers that calls `update_step` with Keras 3's arguments."""

    def __init__(
        self, learning_rate: Any, gradient_accumulation_steps: Any = None, **kwargs: Any
    ) -> None:
        if gradient_accumulation_steps:
            raise ValueError(
                f"gradient_accumulation_steps={gradient_accumulation_steps}: needs "
                "Keras 3; leave it out"
            )
        super().__init__(**kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)

    @property
    def built(self) -> bool:
        return getattr(self, "_built", False)

    def build(self, variables: Any) -> None:
        super().build(variables)
        self._trainable_variables = list(variables)
        self._built = True
        self.build = lambda variables: None  # Keras 2 calls it in every step

    @property
    def learning_rate(self) -> Any:
        if callable(self._learning_rate):
            return self._learning_rate(self.iterations)
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: Any) -> None:
        keras2.optimizers.Optimizer.learning_rate.fset(self, rate)

    def apply(self, gradients: Any, variables: Any) -> Any:
        super().apply_gradients(zip(gradients, variables), **self._options)

    def apply_gradients(self, gradients_and_variables: Any, **options: Any) -> Any:
        self._options = options
        self.apply(*zip(*gradients_and_variables))
        return self.iterations

    def add_variable_from_reference(
        self, variable: Any, name: Any, **kwargs: Any
    ) -> Any:
        return super().add_variable_from_reference(variable, name, **kwargs)

    def _get_variable_index(self, variable: Any) -> Any:
        return self._index_dict[self._var_key(variable)]

    def _update_step(self, gradient: Any, variable: Any) -> Any:
        rate = self._learning_rate
        rate = self._current_learning_rate if callable(rate) else rate
        self.update_step(gradient, variable, rate)

    def assign(self, variable: Any, value: Any) -> None:
        variable.assign(value)

    def assign_sub(self, variable: Any, value: Any) -> None:
        variable.assign_sub(value)

    def get_config(self) -> dict[str, Any]:
        rate = self._serialize_hyperparameter(self._learning_rate)
        return {**super().get_config(), "learning_rate": rate}


class _Lamb(_Optimizer):
    """The constructor and slots of Keras 3's Lamb; `optimizers.Lamb` has the update."""

    def __init__(
        self, learning_rate: Any, beta_1: Any, beta_2: Any, epsilon: Any, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, variables: Any) -> None:
        super().build(variables)
        self._momentums, self._velocities = (
            [self.add_variable_from_reference(v, name) for v in variables]
            for name in ("momentum", "velocity")
        )

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("beta_1", "beta_2", "epsilon")}
        return {**super().get_config(), **own}


class _LossScaleOptimizer(LossScaleOptimizerV3):
    """Keras 2's loss scaling, with the attributes of Keras 3."""

    @property
    def dynamic_scale(self) -> Any:
        return self._loss_scale.current_loss_scale

    @property
    def variables(self) -> Any:
        scale = self._loss_scale
        return [*super().variables, scale.current_loss_scale, scale.counter]


layers = keras2.layers
keras = _ModuleProxy(
    keras2,
    Model=_Model(),
    ops=ops,
    backend=_ModuleProxy(
        keras2.backend,
        backend=lambda: "tensorflow",
        standardize_dtype=lambda dtype: tf.as_dtype(dtype).name,
    ),
    config=SimpleNamespace(
        dtype_policy=keras2.mixed_precision.global_policy,
        set_dtype_policy=keras2.mixed_precision.set_global_policy,
        image_data_format=keras2.backend.image_data_format,
        set_image_data_format=keras2.backend.set_image_data_format,
        floatx=keras2.backend.floatx,
    ),
    optimizers=_ModuleProxy(
        keras2.optimizers,
        Optimizer=_Optimizer,
        Lamb=_Lamb,
        LossScaleOptimizer=_LossScaleOptimizer,
    ),
)
