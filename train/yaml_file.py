"""YAML files that a user writes, checked against a model; what is wrong is said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tomoscribe.engine.errors import ParameterError

__all__ = ["check_values", "read_yaml"]

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Makes plain values only, whatever the file asks for, and takes no key twice: the first would be lost."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # noqa: ANN401
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        taken = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in taken:
                raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' twice", problem_mark=key.start_mark)
            taken.add((key.tag, key.value))
        return node


def read_yaml(path: Path, model: type[Model]) -> Model:
    """Read a YAML file as a pydantic model.

    Raises:
        ParameterError: the file cannot be read, is not YAML, or the model does not allow what it says; the message
            names the file and the first key that is wrong.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a safe one
    # A date or a number that is none is a ValueError.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ParameterError(f"{path}: expected a readable YAML file, found: {reason}") from error
    return check_values(content, model, str(path))


def check_values(content: Any, model: type[Model], source: str) -> Model:  # noqa: ANN401 - whatever YAML may hold
    """Return values as a pydantic model.

    Args:
        content: what should be a mapping of the model's keys.
        model: the model.
        source: where the values come from, for the error.

    Raises:
        ParameterError: the model does not allow them; the message names the source and the first key that is wrong.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        found = f", found {first['input']!r}" if not isinstance(first["input"], dict | list) else ""
        raise ParameterError(f"{source}: {key}: {first['msg'].removeprefix('Value error, ')}{found}{more}") from error
