"""The one error of weights files."""


class WeightsError(ValueError):
    """A checkpoint that does not fit or cannot be read, with all that is in the way."""
