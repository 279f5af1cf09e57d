"""Support for Keras 2.15 and TensorFlow Addons, which ends on 2027-10-31."""
