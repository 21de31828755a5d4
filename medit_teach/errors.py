"""The errors this package raises on purpose: each says what was wrong, where, and what to do."""


class MeditError(ValueError):
    """Base class; the command line prints its message in one line and exits with code 2."""


class FactError(MeditError):
    """A fact, a facts file or a subject that cannot be used."""


class ModelError(MeditError):
    """A model or tokenizer that cannot be loaded, is not known, or holds unusable weights."""


class HyperError(MeditError):
    """An unknown method or a hyper-parameter outside its range."""


class StatisticsError(MeditError):
    """A second moment C0 of the wrong size, of other weights, or from too few tokens."""


class SingularError(MeditError):
    """A system that has no unique solution; carries the condition number that was found."""

    def __init__(self, message, condition=float("inf")):
        super().__init__(message)
        self.condition = condition
