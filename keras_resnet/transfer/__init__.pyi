from .detection import detector as detector
from .encoder import Encoder as Encoder
from .measures import average_precision as average_precision
from .segmentation import segmenter as segmenter
