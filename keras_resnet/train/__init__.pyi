from .build import precision_policy as precision_policy
from .training import Interrupted as Interrupted
from .training import fit as fit
from .training import is_finished as is_finished
