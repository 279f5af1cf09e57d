from .engines import open_any as open_any
from .engines import open_engine as open_engine
from .engines import task_of as task_of
from .exporting import save as save
from .folding import fold_batch_norm as fold_batch_norm
from .numbering import versions as versions
