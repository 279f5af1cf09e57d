import typing

from . import baselines as baselines
from . import data as data
from . import distillation as distillation
from . import evaluate as evaluate
from . import explain as explain
from . import export as export
from . import layers as layers
from . import optimizers as optimizers
from . import recipe as recipe
from . import report as report
from . import scale as scale
from . import train as train
from . import transfer as transfer
from . import weights as weights
from .config import VARIANTS as VARIANTS
from .config import ResNetConfig as ResNetConfig
from .config import list_models as list_models
from .errors import DataError as DataError
from .errors import Error as Error
from .errors import HubError as HubError
from .errors import ModelError as ModelError
from .errors import RayError as RayError
from .errors import RecipeError as RecipeError
from .errors import RunError as RunError
from .errors import WeightsError as WeightsError
from .evaluate import Features as Features
from .info import ModelInfo as ModelInfo
from .info import Protocol as Protocol
from .opening import open_model as open_model
from .recipes import RECIPES as RECIPES
from .scale import Predictor as Predictor
from .sharing import push_to_hub as push_to_hub
from .variants import backbone as backbone
from .variants import create as create
from .weights import LoadReport as LoadReport
from .weights import load_weights as load_weights
from .weights import save_weights as save_weights

__version__: str

# ResNet50D, SEResNet152D, ...: one function for each of VARIANTS
def __getattr__(name: str) -> typing.Any: ...
