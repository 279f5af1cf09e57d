import keras_resnet.errors

from .batches import Slice as Slice
from .batches import eval_batches as eval_batches
from .batches import steps_per_epoch as steps_per_epoch
from .batches import train_batches as train_batches
from .checks.annotated import check_annotated as check_annotated
from .checks.bad import blame_pictures as blame_pictures
from .checks.bad import find_bad as find_bad
from .checks.bad import without_bad as without_bad
from .checks.validation import validate as validate
from .grids import preview as preview
from .shards.preparation import prepare as prepare
from .sources import open_source as open_source
from .splits import Source as Source
from .splits import Split as Split
from .transforms.crop import eval_crop as eval_crop
from .transforms.crop import load_eval as load_eval
from .transforms.crop import resize_short as resize_short
from .transforms.crop import ten_crop as ten_crop
from .transforms.decode import decode_image as decode_image
from .transforms.decode import first_sentence as first_sentence
from .transforms.letterbox import load_square as load_square
from .transforms.mix import cutmix as cutmix
from .transforms.mix import mixup as mixup

DataError = keras_resnet.errors.DataError
