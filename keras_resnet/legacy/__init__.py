"""Keras 2.15 and TensorFlow Addons, whose last stack is kept until 2027-10-31."""
