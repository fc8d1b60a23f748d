"""Published transformer configurations, and the door for a user's own ``config.json``.

A file of the catalogue, ``instances/models/NAME.json``, gives each value with the place it was read from. A
configuration of one's own is a Hugging Face ``config.json`` (see :mod:`instances.huggingface`).
"""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from instances.architecture import ModelConfig
from instances.documents import parse, read_json
from instances.errors import InputError
from instances.huggingface import from_huggingface

__all__ = ["ModelConfig", "load_model", "model_names"]


def _folder() -> Traversable:
    return files("instances").joinpath("models")


def model_names() -> tuple[str, ...]:
    """Names of the catalogue, sorted."""
    return tuple(sorted(item.name.removesuffix(".json") for item in _folder().iterdir() if item.name.endswith(".json")))


def load_model(name_or_path: str | Path) -> ModelConfig:
    """A model of the catalogue by name, or a user's own from a file.

    Parameters
    ----------
    name_or_path
        One of :func:`model_names`, or the path of a Hugging Face ``config.json`` or of the folder that holds it.

    Returns
    -------
    ModelConfig
        With the source of every value: the published configuration page, or the keys of the user's file.

    Raises
    ------
    InputError
        Where there is no such name or file, or the file does not describe a supported model; the sentence names
        file, key, value and remedy.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if name in model_names():
        return _from_catalogue(name)
    if path.is_dir() and (path / "config.json").is_file():
        path = path / "config.json"
    if path.suffix == ".json" or path.exists():
        return from_huggingface(read_json(path), path)
    raise InputError(
        f"model {name!r} is unknown; choose {', '.join(model_names())}, or give the path of a Hugging Face config.json"
    )


def _from_catalogue(name: str) -> ModelConfig:
    path = Path(str(_folder().joinpath(f"{name}.json")))
    data = read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds a {type(data).__name__}, not a JSON object; reinstall the package")
    fields: dict[str, Any] = {"name": name, "sources": {}}
    for key, entry in data.items():
        if not isinstance(entry, dict) or set(entry) != {"value", "source"}:
            raise InputError(f"{path}: {key} is not an object of value and source; give both")
        fields[key] = entry["value"]
        fields["sources"][key] = entry["source"]
    return parse(ModelConfig, fields, path)
