"""A report of a run as one HTML file: recipe, curves, measures, mistakes and advice."""

from keras_resnet.report.writing import write

__all__ = ["write"]
