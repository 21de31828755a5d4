"""What editing is compared with, behind the same Edit object."""

from ..hyper import METHODS
from .finetune import FineTuning

METHODS["ft"] = FineTuning
