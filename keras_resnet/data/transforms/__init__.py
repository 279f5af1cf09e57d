"""Image transforms: decoding, resizing, crops, color distortion and augmentation."""
