"""Pictures -> pictures: decoding, crops, colours, mixing."""
