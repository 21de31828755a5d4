"""What every record says about how it was made."""

import platform

import torch


def versions():
    """{"python": "3.11.7", "torch": ..., ...}: what a record was made with."""
    import numpy
    import transformers

    from . import __version__

    return {
        "medit_teach": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
    }
