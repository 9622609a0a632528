"""What can go wrong, in few names. Every message says what happened, where, and what to do next."""

from __future__ import annotations


class FarmError(Exception):
    """Base of every error farm raises on purpose; the command line prints it as one paragraph."""


class RecipeError(FarmError, ValueError):
    """A recipe does not validate. The message lists every mistake: file, field, value, nearest valid key."""


class DataError(FarmError, ValueError):
    """A data file is missing, malformed or empty. The message names file, line and field."""


class AnnotatorError(FarmError, RuntimeError):
    """No judge can be reached, or an annotator pool is malformed."""


class BudgetError(FarmError, RuntimeError):
    """The budget for judges is used up, or cannot be kept because a price is unknown. Raising it goes on."""


class RunError(FarmError, RuntimeError):
    """A run folder cannot be used: unwritable, locked by another process, or of another recipe."""


class TrainError(FarmError, ArithmeticError):
    """Training cannot go on: a loss or reward is not finite, or a model does not fit the data."""


class MissingExtra(FarmError, ImportError):
    """An optional dependency is not installed. The message names the extra to install."""
