"""Carry a wheel in parts to where there is no network and no way in for a file of its size.

    python benchmarks/wheel_parts.py split onnxruntime_gpu-1.31.1-cp311-cp311-linux_x86_64.whl --size 60 --output parts
    python benchmarks/wheel_parts.py join parts --output wheels

*split* writes ``<wheel>.001``, ``<wheel>.002``, … of `--size` MiB each, and ``<wheel>.sha256``, which `sha256sum -c`
reads as well. *join* puts together every wheel of which a folder has the parts, and keeps what has the right sum. The
parts are plain pieces: ``cat <wheel>.[0-9]* > <wheel>`` does the same where there is no Python. Any file will do.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path

__all__ = ["join", "split"]

_CHUNK = 2**20
_PART = re.compile(r"\.(\d{3,})")


def split(wheel: Path, output: Path, part_bytes: int) -> list[Path]:
    """Write the parts of a file and its sum, and return them.

    Args:
        wheel: the file.
        output: the folder, made if need be; parts that are there are replaced.
        part_bytes: of every part but the last, which has what is left.
    """
    output.mkdir(parents=True, exist_ok=True)
    written, total = [], hashlib.sha256()
    with wheel.open("rb") as source:
        while block := source.read(min(_CHUNK, part_bytes)):
            written.append(output / f"{wheel.name}.{len(written) + 1:03}")
            left = part_bytes
            with written[-1].open("wb") as part:
                while block:
                    total.update(block)
                    part.write(block)
                    left -= len(block)
                    block = source.read(min(_CHUNK, left))
    written.append(output / f"{wheel.name}.sha256")
    written[-1].write_text(f"{total.hexdigest()}  {wheel.name}\n", encoding="utf-8")
    return written


def join(parts: Path, output: Path) -> list[Path]:
    """Put together every file of which a folder has the parts, and return them.

    Args:
        parts: the folder.
        output: another folder, made if need be.

    Raises:
        ValueError: a part is missing or damaged; what is wrong is not kept.
    """
    output.mkdir(parents=True, exist_ok=True)
    joined = []
    for sum_file in sorted(parts.glob("*.sha256")):
        expected, name = sum_file.read_text(encoding="utf-8").split(maxsplit=1)
        target, total = output / Path(name.strip()).name, hashlib.sha256()
        beside = target.with_name(f".{target.name}.part")
        try:
            with beside.open("wb") as whole:
                for part in _parts_of(parts, sum_file.stem):
                    with part.open("rb") as source:
                        while block := source.read(_CHUNK):
                            total.update(block)
                            whole.write(block)
            if total.hexdigest() != expected:
                raise ValueError(
                    f"{target.name}: expected the sha256 {expected}, found {total.hexdigest()}; bring all parts anew"
                )
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
        joined.append(target)
    return joined


def _parts_of(folder: Path, name: str) -> list[Path]:
    found = {
        int(match[1]): path
        for path in folder.iterdir()
        if path.name.startswith(f"{name}.") and (match := _PART.fullmatch(path.name.removeprefix(name)))
    }
    if missing := sorted(set(range(1, max(found, default=1) + 1)) - set(found)):
        raise ValueError(f"{name}: expected the parts 1 to {max(found, default=1)}, found no part {missing[0]}")
    return [found[number] for number in sorted(found)]


def main() -> None:
    """Split or join."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    splitting = verbs.add_parser("split")
    splitting.add_argument("wheel", type=Path)
    splitting.add_argument("--size", type=int, default=60, metavar="MIB", help="of a part (60)")
    joining = verbs.add_parser("join")
    joining.add_argument("parts", type=Path, help="folder")
    for verb in (splitting, joining):
        verb.add_argument("--output", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    try:
        if arguments.verb == "split":
            if arguments.size < 1:
                parser.error("--size: expected at least 1")
            made = split(arguments.wheel, arguments.output, arguments.size * 2**20)
        else:
            made = join(arguments.parts, arguments.output)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    if not made:
        parser.exit(2, f"{arguments.parts}: expected a .sha256 beside the parts, found none\n")
    print("\n".join(map(str, made)))


if __name__ == "__main__":
    main()
