"""Every error a user can meet.

All derive from :class:`FedRouterError`. Its message is one line that says what is wrong, where
(file, line, key or value) and how to fix it; the command line prints it and exits with code 2.

* FedRouterError
    * ConfigError        a configuration key or value that cannot be used
    * DataError          a data file, row or split that cannot be used
    * ModelError         a base model that cannot be loaded or does not match the run
    * AdapterError       adapter weights that do not fit the base model, or an unknown adapter name
    * MessageError       a message from another machine that fails its checks
    * RunError           a run folder that exists, is missing or is not one
        * CheckpointError    no undamaged checkpoint to resume from
    * EngineError        clients that cannot be reached, or none of which replies
    * PrivacyError       a release that the privacy budget does not allow
    * TrainingError      a run in which no client's training was ever usable (exit code 1)
    * ExportError        a run that cannot be exported as asked, or not to this folder
    * RequestError       a request to a server, or arguments of a generation, that cannot be used
    * DeployError        a deployment's folder or values that cannot be used
    * MissingExtraError  an optional dependency that is not installed
"""


class FedRouterError(Exception):
    """Base class of every error that fedrouter raises on purpose.

    >>> from fedrouter import FedRouterError, load_config
    >>> try:
    ...     load_config(None, ["seed=-1"])
    ... except FedRouterError as error:
    ...     print(type(error).__name__)
    ConfigError
    """


class ConfigError(FedRouterError):
    """A configuration key or value that cannot be used."""


class DataError(FedRouterError):
    """A data file, row or split that cannot be used."""


class ModelError(FedRouterError):
    """A base model that cannot be loaded, or that does not match the run."""


class AdapterError(FedRouterError):
    """Adapter weights that do not fit the base model, or an unknown adapter name."""


class MessageError(FedRouterError):
    """A message from outside that fails its checks."""


class RunError(FedRouterError):
    """A run folder that exists already, is missing, or is not a run folder."""


class CheckpointError(RunError):
    """A run folder without an undamaged checkpoint."""


class EngineError(FedRouterError):
    """Clients that cannot be reached, or none of which replies."""


class PrivacyError(FedRouterError):
    """A release that would exceed the run's privacy budget."""


class TrainingError(FedRouterError):
    """A run in which no client's training was ever usable; the command line exits with code 1."""


class ExportError(FedRouterError):
    """A run that cannot be exported for a program, or not to this folder."""


class RequestError(FedRouterError):
    """A request to a server, or arguments of a generation, that cannot be used.

    Attributes:
        parameter: the field at fault; "" if it is the request as a whole.
    """

    def __init__(self, fault: str, parameter: str = "") -> None:
        super().__init__(f"{parameter} {fault}" if parameter else fault)
        self.parameter = parameter


class DeployError(FedRouterError):
    """A deployment's folder or values that cannot be used."""


class MissingExtraError(FedRouterError):
    """An optional dependency that is not installed."""

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs an extra: pip install 'fedrouter[{extra}]'")


def printable(text: str, limit: int) -> str:
    """The first characters of a text, with a question mark for each that does not print.

    Line breaks and terminal escapes from a client must not reach the server's log: they could
    forge lines of it.

    Args:
        text: of any origin.
        limit: the maximum number of characters.
    """
    return "".join(c if c.isprintable() else "?" for c in text[:limit])


OUT_OF_MEMORY = (
    "the memory is not enough; close other programs, or use a smaller base model, a smaller "
    "training.batch_size or engine.fuse, or model.dtype = 'bfloat16'"
)
_SIGNS_OF_NO_MEMORY = (  # what libraries say in errors of other classes
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "can't start new thread",
    "std::bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, is about a lack of memory.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    True
    """
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    if not isinstance(error, FedRouterError) and any(sign in text for sign in _SIGNS_OF_NO_MEMORY):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)
