"""Exceptions of the package, raised with the texts of the Rust crates."""


class HiendError(Exception):
    """An error of this package. The text is one line that names the file, case or key."""


class ConfigError(HiendError, ValueError):
    """An argument that is out of range or does not suit the cache."""


class NotFoundError(HiendError, FileNotFoundError):
    """A file, folder or cache that does not exist."""
