from .detection import detector as detector
from .encoder import Encoder as Encoder
from .segmentation import segmenter as segmenter
