"""Which pictures of a data set cannot be used, and why."""
