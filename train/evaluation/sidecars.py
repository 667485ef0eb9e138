"""What the sidecar of tomoscribe says of a label volume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.inputs import tomogram_stem

__all__ = ["LabelFacts", "read_sidecar"]


@dataclass(frozen=True)
class LabelFacts:
    """The entries of ``<tomogram>__labels.json`` that evaluation needs.

    Attributes:
        class_map: what the numbers of the label volume mean.
        class_volumes: the file of each class's scores by name, in the same folder; those that were written.
        labelled_part: first slice that was labelled and one past the last, if that is not the whole volume.
    """

    class_map: ClassMap
    class_volumes: Mapping[str, Path]
    labelled_part: tuple[int, int] | None


def read_sidecar(path: Path) -> LabelFacts | None:
    """Return what a sidecar says, or the one beside a label volume; None where there is none.

    Raises:
        ParameterError: it cannot be read, or is not what it has to be.
    """
    sidecar = path if path.suffix == ".json" else path.with_name(f"{tomogram_stem(path)}.json")
    try:
        entries = json.loads(sidecar.read_text(encoding="utf-8"))
        if not isinstance(entries, dict) or "classes" not in entries:
            return None  # another file of that name, such as the parameters of a phantom
        depth, part = entries.get("shape_zyx", [0])[0], tuple(entries.get("z_range", ()))
        return LabelFacts(
            ClassMap.from_json(entries["classes"]),
            # A sidecar can be edited, and counts only for files of its own folder.
            {name: sidecar.parent / Path(file).name for name, file in entries.get("class_volumes", {}).items()},
            (int(part[0]), int(part[1])) if part not in ((), (0, depth)) else None,
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ParameterError(
            f"{sidecar}: expected a sidecar of labels, as tomoscribe segment writes it, found another thing ({error})"
        ) from error
