"""Writes data sets as TFRecord shards, in parallel and resumably."""
