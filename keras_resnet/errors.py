"""The errors of this package, all of one base: what was given, and what to do."""


class Error(Exception):
    """The base of every error that this package raises on purpose.

    Its text is one line that names the argument or the file, its value and a remedy.
    """


class DataError(Error, ValueError):
    """A data set that cannot be used."""


class ModelError(Error, ValueError):
    """A model that cannot be opened, or does not fit what is asked of it."""


class WeightsError(Error, ValueError):
    """A checkpoint that does not fit or cannot be read, with all that is in the way."""


class DescriptionError(ModelError, WeightsError):
    """A file that does not say which net it holds, or says what no net of ours is."""


class RecipeError(Error, ValueError):
    """A recipe that cannot be meant, with the field, its value and what is allowed."""


class AddonsError(RecipeError):
    """A piece of TensorFlow Addons that is not to be had, and what to take instead."""


class RunError(Error, ValueError):
    """A run directory that cannot be used as asked."""


class SavedModelError(Error, RuntimeError):
    """A SavedModel that does not load, or a request that it refuses."""


class ServeError(Error):
    """An exported model that cannot be served as asked."""


class DemoError(Error, RuntimeError):
    """The demonstration ran, and its result is not good enough."""
