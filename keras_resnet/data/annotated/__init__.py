"""Reads data sets for object detection and semantic segmentation."""
