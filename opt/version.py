"""The release that is running."""

from importlib import metadata

try:
    __version__ = metadata.version("tilewright")
except metadata.PackageNotFoundError:  # run from a source tree
    __version__ = "0+unknown"
