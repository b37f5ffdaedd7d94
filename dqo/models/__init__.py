"""Sources of the policy: ``conf/model`` builds an object with ``name``, ``load_tokenizer()``, ``load_config()`` and
``load()``."""

from dqo.models.folders import cached_folder, save_policy
from dqo.models.hf import Hf
from dqo.models.precision import Dtype
from dqo.models.sizes import parameter_counts
from dqo.models.tiny import Tiny

__all__ = ["Dtype", "Hf", "Tiny", "cached_folder", "parameter_counts", "save_policy"]
