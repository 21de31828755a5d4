"""What editing is compared with, behind the same Edit object."""

from ..hyper import METHODS
from .finetune import FineTuning
from .grace import GRACE
from .in_context import IKE, Prompt
from .mend import MEND

METHODS |= {"ft": FineTuning, "mend": MEND, "grace": GRACE, "prompt": Prompt, "ike": IKE}
