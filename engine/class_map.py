"""The class map: what each label number means, and how it is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tomoscribe.engine.errors import ParameterError

__all__ = ["DEFAULT_CLASS_MAP", "ClassMap", "LabelClass", "hex_colour"]

Colour = tuple[int, int, int]


def hex_colour(colour: Colour) -> str:
    """Return a colour as ``#rrggbb``, as files and plots have it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


@dataclass(frozen=True)
class LabelClass:
    """One class: its label number (1 to 255), its name in words, and its colour as (red, green, blue), 0 to 255."""

    number: int
    name: str
    colour: Colour

    @property
    def feature(self) -> str:
        """The name as file names carry it: ``double membrane`` becomes ``DoubleMembrane``.

        Ais, easymode and Pom parse ``<tomogram>__<Feature>.mrc``; copick allows no underscore inside a name.
        """
        return "".join(word[:1].upper() + word[1:] for word in self.name.replace("_", " ").replace("-", " ").split())


@dataclass(frozen=True)
class ClassMap:
    """The classes of a model in label order; label 0 is background and is not listed.

    Raises:
        ParameterError: the numbers are not 1, 2, 3, …, there are none or more than 255, or two names are the same
            once written as a feature.
    """

    classes: tuple[LabelClass, ...]

    def __post_init__(self) -> None:
        numbers = [label_class.number for label_class in self.classes]
        if not 1 <= len(numbers) <= 255 or numbers != list(range(1, len(numbers) + 1)):
            raise ParameterError(f"class map: expected the label numbers 1, 2, 3, … (255 at most), found {numbers}")
        features = [label_class.feature.lower() for label_class in self.classes]
        if len(set(features)) != len(features) or "" in features or "labels" in features:
            names = [label_class.name for label_class in self.classes]
            raise ParameterError(f"class map: expected a different name for every class, none 'labels', found {names}")

    def __len__(self) -> int:
        """Return the number of classes, background not counted."""
        return len(self.classes)

    def select(self, names: Iterable[str | int]) -> tuple[LabelClass, ...]:
        """Return the classes that are named, in label order.

        A name counts in any spelling (``double membrane``, ``Double_Membrane``, ``DoubleMembrane``), a number too.

        Raises:
            ParameterError: a single text in place of a list of names, or a name that the map does not have; the
                message lists those it has.
        """
        if isinstance(names, str):
            raise ParameterError(f"classes: expected a list of names, such as ['{names}'], found the text '{names}'")
        wanted: set[int] = set()
        for name in names:
            key = _key(str(name))
            found = [c.number for c in self.classes if key in (_key(c.name), str(c.number))]
            if not found:
                known = ", ".join(c.name for c in self.classes)
                raise ParameterError(f"class '{name}': the model has no such class; it has {known}")
            wanted.update(found)
        return tuple(c for c in self.classes if c.number in wanted)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the map as it stands in ``model.json``; colours as ``#rrggbb``."""
        return [{"number": c.number, "name": c.name, "colour": hex_colour(c.colour)} for c in self.classes]

    @classmethod
    def from_json(cls, entries: Sequence[Mapping[str, Any]]) -> ClassMap:
        """Read what `to_json` wrote.

        Raises:
            ParameterError: an entry lacks a key, or its value is not what the key means.
        """
        try:
            return cls(
                tuple(
                    LabelClass(int(entry["number"]), str(entry["name"]), _parse_colour(str(entry["colour"])))
                    for entry in entries
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ParameterError):
                raise
            raise ParameterError(f"class map: expected number, name and colour '#rrggbb', found {entries!r}") from error


def _key(name: str) -> str:
    return "".join(character for character in name.lower() if character not in " _-")


def _parse_colour(text: str) -> Colour:
    if len(text) != 7 or text[0] != "#":
        raise ValueError(text)
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


# Okabe and Ito's palette: told apart with any colour vision, and on grey.
DEFAULT_CLASS_MAP = ClassMap(
    (
        LabelClass(1, "microtubule", (230, 159, 0)),
        LabelClass(2, "ribosome", (240, 228, 66)),
        LabelClass(3, "double membrane", (213, 94, 0)),
        LabelClass(4, "single membrane", (86, 180, 233)),
        LabelClass(5, "carbon edge", (204, 121, 167)),
    )
)
