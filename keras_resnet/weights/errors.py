"""The one exception of everything that reads or fits weights."""


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit, with every tensor in the way."""
