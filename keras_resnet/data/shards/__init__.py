"""Data sets written as TFRecord shards: planned, resumable, in parallel."""
