from .predictor import Predictor as Predictor
from .tables import predict_to_tables as predict_to_tables
from .training import ray_train as ray_train
