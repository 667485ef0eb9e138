"""Every error that tomoscribe raises on purpose.

::

    TomoscribeError
    ├── ParameterError            (ValueError)         an argument or option that cannot be used
    ├── TomogramNotFoundError     (FileNotFoundError)  no tomogram at a path
    ├── TomogramFormatError       (ValueError)         a file that is not the tomogram it claims to be
    ├── IntensityError            (ValueError)         values that cannot be normalised: NaN, constant
    ├── BundleError               (ValueError)         a model bundle that is incomplete, altered or unsuitable
    │   ├── ParityError           (export.parity)      an artifact that does not answer as its network
    │   └── PlanError             (engine.plans)       a TensorRT plan that cannot be used here
    ├── OutputExistsError         (FileExistsError)    an output is already there and may not be replaced
    ├── OutputError               (OSError)            an output cannot be written
    │   └── LedgerError           (engine.watch)       a watched folder's ledger that cannot be read or written
    ├── BackendUnavailableError   (RuntimeError)       a backend that was asked for cannot run here
    └── BackendError              (RuntimeError)       a backend failed while it ran

A message is one line: the file, what was expected, what was found, and what to do. ``exit_status`` is what the
command line returns for the error: 2 where the input has to change, 1 where something failed.
"""

__all__ = [
    "BackendError",
    "BackendUnavailableError",
    "BundleError",
    "IntensityError",
    "OutputError",
    "OutputExistsError",
    "ParameterError",
    "TomogramFormatError",
    "TomogramNotFoundError",
    "TomoscribeError",
]


class TomoscribeError(Exception):
    """Base of every error that tomoscribe raises on purpose."""

    exit_status = 2


class ParameterError(TomoscribeError, ValueError):
    """An argument or option that cannot be used."""


class TomogramNotFoundError(TomoscribeError, FileNotFoundError):
    """No tomogram at the path that was given."""


class TomogramFormatError(TomoscribeError, ValueError):
    """A file that is not the tomogram it claims to be: truncated, unknown mode, header and size at odds."""


class IntensityError(TomoscribeError, ValueError):
    """Intensities that cannot be normalised: not finite, or constant."""


class BundleError(TomoscribeError, ValueError):
    """A model bundle that is incomplete, was altered, or does not fit what it was asked to do."""


class OutputExistsError(TomoscribeError, FileExistsError):
    """An output that is already there and may not be replaced."""


class OutputError(TomoscribeError, OSError):
    """An output that cannot be written: no space, no permission."""

    exit_status = 1


class BackendUnavailableError(TomoscribeError, RuntimeError):
    """A backend that was asked for cannot run on this machine."""


class BackendError(TomoscribeError, RuntimeError):
    """A backend that failed while it ran."""

    exit_status = 1
