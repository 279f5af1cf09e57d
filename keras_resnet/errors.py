"""The exceptions of this package, with a common base class."""


class Error(Exception):
    """The base class of the errors that this package raises deliberately.

    The message names the argument or the file, its value and a remedy.
    """


class DataError(Error, ValueError):
    """A data set cannot be used."""


class ModelError(Error, ValueError):
    """A model that cannot be opened, or that cannot be used as requested."""


class WeightsError(Error, ValueError):
    """A checkpoint that cannot be read or does not fit, with a list of the problems."""


class DescriptionError(ModelError, WeightsError):
    """A file without a valid description of a model of this package."""


class RecipeError(Error, ValueError):
    """An invalid recipe, with the field, its value and the allowed values."""


class AddonsError(RecipeError):
    """A part of TensorFlow Addons that is not available, and its replacement."""


class RunError(Error, ValueError):
    """A run directory that cannot be used as requested."""


class HubError(Error, RuntimeError):
    """The Hugging Face hub refuses an upload or does not answer, or a wrong name."""


class Diverged(RunError):
    """A run whose loss, gradients or weights are no longer finite."""


class SavedModelError(Error, RuntimeError):
    """A SavedModel that cannot be loaded, or an input that it rejects."""


class ServeError(Error):
    """An exported model that cannot be served as requested."""


class RayError(Error, RuntimeError):
    """Ray is not installed, its cluster does not answer, or its workers failed."""


class DemoError(Error, RuntimeError):
    """A demonstration that cannot run, or whose result is not good enough."""
