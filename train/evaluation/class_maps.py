"""Which class map an evaluation is by."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tomoscribe.engine.bundle import MODEL_FILE, Bundle
from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP, ClassMap
from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.dataset.storage import open_dataset
from tomoscribe.train.evaluation.sidecars import read_sidecar

__all__ = ["agreed_class_map", "read_class_map"]


def read_class_map(path: Path) -> ClassMap:
    """Return the class map of a bundle, a dataset, or a sidecar (a label volume stands for the one beside it).

    Raises:
        BundleError: the bundle is damaged.
        DatasetError: the folder is neither a bundle nor a dataset.
        ParameterError: the file is no sidecar.
    """
    if path.is_dir():
        return (
            Bundle.load(path).specification.class_map if (path / MODEL_FILE).exists() else open_dataset(path).class_map
        )
    facts = read_sidecar(path)
    if facts is None:
        raise ParameterError(f"{path}: expected a bundle, a dataset or a sidecar of labels (<tomogram>__labels.json)")
    return facts.class_map


def agreed_class_map(volumes: Iterable[Path], chosen: ClassMap | None = None) -> ClassMap:
    """Return the class map that label volumes are read by: the chosen one, that of their sidecars, or the default.

    Args:
        volumes: label volumes whose values are class numbers.
        chosen: the class map that a user chose.

    Raises:
        ParameterError: a sidecar says that the numbers mean other classes than the map; the message names it.
    """
    agreed, source = chosen, Path("the class map")
    for path in volumes:
        facts = read_sidecar(path)
        if facts is None:
            continue
        if agreed is None:
            agreed, source = facts.class_map, path
        elif _features(facts.class_map) != _features(agreed):
            raise ParameterError(
                f"{path}: expected the classes of {source} ({_names(agreed)}), found {_names(facts.class_map)}; say "
                "what the values stand for with --values or --truth-values"
            )
    return agreed or DEFAULT_CLASS_MAP


def _features(class_map: ClassMap) -> list[str]:
    return [label_class.feature.lower() for label_class in class_map.classes]


def _names(class_map: ClassMap) -> str:
    return ", ".join(label_class.name for label_class in class_map.classes)
