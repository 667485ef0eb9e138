"""What a person has to say of somebody's ONNX file before it can be deployed: no file says it."""

from __future__ import annotations

import colorsys
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tomoscribe.engine.bundle import NORMALISATIONS
from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP, ClassMap, Colour, LabelClass, hex_colour
from tomoscribe.engine.errors import ParameterError

__all__ = ["ACTIVATIONS", "ANSWERS", "BACKGROUND", "ForeignDescription"]

BACKGROUND = "background"
ACTIVATIONS = ("softmax", "sigmoid")
ANSWERS = ("logits", "probabilities")

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class ForeignDescription:
    """What a network expects and what its channels mean.

    With ``softmax`` the channels exclude each other: the probabilities of a pixel add up to 1, its label is the
    likeliest channel, and one of the channels is background.

    With ``sigmoid`` every channel is a probability by itself, and several classes may claim a pixel. Each keeps its own
    score; the label is the likeliest class where that is likelier than not, and background elsewhere. The score of
    background is 1 minus that of the likeliest class, so a pixel's scores need not add up to 255. If one of the
    channels is background, it is judged as the others are, and the label is the likeliest channel.

    Attributes:
        name: the model's name.
        channels: names of the output's channels in their order, `BACKGROUND` among them if it has a channel; a colour
            may follow, as in ``ribosome=#f0e442``. The classes get the label numbers 1, 2, 3, … in this order.
        voxel_size: ``(smallest, largest)`` in Å that the network was trained on.
        activation: ``softmax`` or ``sigmoid``.
        answers: ``logits`` or ``probabilities``; told from the network's answers if None.
        normalise: ``volume`` gives the network intensities less the tomogram's mean, over its standard deviation;
            ``none`` those of the file, mirrored about the mean where the contrast has to be turned over.
        scale: what the intensities are multiplied with after that.
        offset: what is added to them then.
        context: neighbouring slices on each side that are channels of the image, k; the image has ``2k + 1``. With 0
            the slice is in every channel. It may be None where the image has one channel.
        polarity: ``dark`` or ``bright``, as density was in training.
        tile_multiple: what height and width have to be multiples of, in pixels; found by trial if None.
        halo: the margin of a tile that is thrown away, in pixels; measured if None.
        output: which of the file's outputs; None if there is one.

    Raises:
        ParameterError: a value that cannot be; the message names it.
    """

    name: str
    channels: tuple[str, ...]
    voxel_size: tuple[float, float]
    activation: str = "softmax"
    answers: str | None = None
    normalise: str = "volume"
    scale: float = 1.0
    offset: float = 0.0
    context: int | None = None
    polarity: str = "dark"
    tile_multiple: int | None = None
    halo: int | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        for name, choices in (("activation", ACTIVATIONS), ("normalise", NORMALISATIONS), ("answers", ANSWERS)):
            value = getattr(self, name)
            if value not in choices and not (name == "answers" and value is None):
                raise ParameterError(f"{name}: expected {' or '.join(choices)}, found {value!r}")
        for name, smallest in (("context", 0), ("tile_multiple", 1), ("halo", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < smallest):
                raise ParameterError(f"{name}: expected a whole number of at least {smallest}, found {value!r}")
        if not (math.isfinite(self.scale) and self.scale and math.isfinite(self.offset)):
            raise ParameterError(
                f"scale and offset: expected numbers, and a scale other than 0, found {self.scale} and {self.offset}"
            )
        if self._names.count(BACKGROUND) > 1:
            raise ParameterError(f"classes: expected one '{BACKGROUND}' at most, found {', '.join(self._names)}")
        if self.activation == "softmax" and self.background is None:
            raise ParameterError(
                f"classes: expected one of the channels of a softmax to be '{BACKGROUND}', found "
                f"{', '.join(self._names)}; name every channel in its order, or use sigmoid if they are independent"
            )
        _ = self.class_map  # refuses names and colours that cannot be

    @property
    def background(self) -> int | None:
        """Which channel is background, counted from 0; None if none is."""
        return self._names.index(BACKGROUND) if BACKGROUND in self._names else None

    @property
    def class_map(self) -> ClassMap:
        """The classes in the order of their channels.

        Classes of the default class map have their colours, others those of its palette that are left, then new ones.
        """
        entries = [(name, colour) for name, colour in self._entries if name != BACKGROUND]
        own = {c.feature.lower(): c.colour for c in DEFAULT_CLASS_MAP.classes}
        features = [LabelClass(1, name, (0, 0, 0)).feature.lower() for name, _ in entries]
        others = _colours([colour for feature, colour in own.items() if feature not in features])
        return ClassMap.from_json(
            [
                {"number": number, "name": name, "colour": colour or hex_colour(own.get(feature) or next(others))}
                for number, ((name, colour), feature) in enumerate(zip(entries, features, strict=True), 1)
            ]
        )

    @property
    def _names(self) -> list[str]:
        return [name for name, _ in self._entries]

    @property
    def _entries(self) -> list[tuple[str, str]]:
        """The name and the colour of every channel; no colour is an empty text."""
        parts = [channel.partition("=") for channel in self.channels]
        return [
            (BACKGROUND if name.strip().lower() == BACKGROUND else name.strip(), colour.strip())
            for name, _, colour in parts
        ]


def _colours(first: Sequence[Colour]) -> Iterator[Colour]:
    """Yield some colours, and then others without end, each of a hue far from those before it."""
    yield from first
    for number in itertools.count(1):
        red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN_RATIO % 1, 0.6, 0.95)
        yield round(255 * red), round(255 * green), round(255 * blue)
