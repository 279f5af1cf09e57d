"""The errors of this package, with one base class."""


class Error(Exception):
    """The base class of the errors of this package.

    The message is one line that names the argument or file, its value, and what to do.
    """


class DataError(Error, ValueError):
    """A data set cannot be used."""


class ModelError(Error, ValueError):
    """A model cannot be opened, or does not fit its use."""


class WeightsError(Error, ValueError):
    """A checkpoint cannot be read, or does not fit; the message lists every problem."""


class DescriptionError(ModelError, WeightsError):
    """A file does not describe its net, or describes one that cannot be built."""


class RecipeError(Error, ValueError):
    """A recipe has an invalid field; the message says what is allowed."""


class AddonsError(RecipeError):
    """A part of TensorFlow Addons is not available; the message names a replacement."""


class RunError(Error, ValueError):
    """A run directory cannot be used."""


class SavedModelError(Error, RuntimeError):
    """A SavedModel does not load, or refuses a request."""


class ServeError(Error):
    """An exported model cannot be served."""


class DemoError(Error, RuntimeError):
    """The demonstration did not reach its result."""
