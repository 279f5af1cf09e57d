"""Finds the images of a data set that cannot be used, and the reasons."""
