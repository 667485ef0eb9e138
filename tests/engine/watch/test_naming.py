from __future__ import annotations

import struct
from pathlib import PurePosixPath

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine.watch.naming import is_reconstruction, is_searched, stack_reason, tilt_series_companion

# What the programs write for one tilt series, in the folder that they were told.
ARETOMO3 = {
    "Position_1_Vol.mrc": True,
    "Position_1_EVN_Vol.mrc": False,
    "Position_1_ODD_Vol.mrc": False,
    "Position_1_2ND_Vol.mrc": False,
    "Position_1_3RD_Vol.mrc": False,
    "Position_1_EVN.mrc": False,
    "Position_1_ODD.mrc": False,
    "Position_1_CTF.mrc": False,
    "Position_1_Imod/Position_1_st.mrc": False,
    "Position_1_Imod/Position_1_Vol.mrc": False,
    "Position_1_TLT.txt": False,
    "Position_1.aln": False,
    "tomo_projXZ.mrc": False,
}
WARP = {
    "reconstruction/TS_1_10.00Apx.mrc": True,
    "reconstruction/even/TS_1_10.00Apx.mrc": False,
    "reconstruction/odd/TS_1_10.00Apx.mrc": False,
    "reconstruction/deconv/TS_1_10.00Apx.mrc": False,
    "reconstruction/ctf/TS_1_10.00Apx.mrc": False,
    "reconstruction/TS_1_10.00Apx.png": False,
    "tiltstack/TS_1/TS_1.st": False,
    "tiltstack/TS_1/TS_1_aligned.mrc": False,
    "average/TS_1_001.mrc": False,
    "matching/TS_1_10.00Apx_ribosome_corr.mrc": False,
    "TS_1_even_10.00Apx.mrc": False,
}
IMOD = {
    "TS_01.rec": True,
    "TS_01_rec.mrc": True,
    "TS_01_flat_rec.mrc": True,
    "TS_01_full.rec": False,
    "TS_01_full_rec.mrc": False,
    "TS_01_full-012_rec.mrc": False,
    "TS_01_3dfind_rec.mrc": False,
    "TS_01_cpos.rec": False,
    "TS_01_even_rec.mrc": False,
    "top.rec": False,
    "mida_rec.mrc": False,
    "bot_rec.mrc": False,
    "sum.rec": False,
    "TS_01_ali.mrc": False,
    "TS_01_preali.mrc": False,
    "TS_01_ctfcorr_ali.mrc": False,
    "TS_01.st": False,
    "TS_01.ali": False,
    "TS_01.preali": False,
    "TS_01.mrcs": False,
    "TS_01_full_srec05.mrc": False,
    "TS_01_gfc0.350-f0.035.mrc": False,
    "TS_01_hlfs0.100.mrc": False,
    "TS_01_slfi12.mrc": False,
    "TS_01_rec.mrc~": False,
}
PLAIN = {
    "a.mrc": True,
    "deep/er/a.map.gz": True,
    "a.tif": True,
    "a.TIFF": True,
    "a.hdf": True,
    "a.rec.bz2": True,
    "a.tif.gz": False,
    "a.gz": False,
    "notes.txt": False,
    "bedsum.rec": True,
    "stop.rec": True,
    "TS-001.rec": True,
    "odd_one.mrc": True,
    "x_ODDITY.mrc": True,
    "carefull.rec": True,
    "half/a_Vol.mrc": True,
    "a__labels.mrc": False,
    "a__Ribosome.mrc": False,
    ".a.mrc": False,
    ".hidden/a.mrc": False,
    "sub/.tomoscribe/a.mrc": False,
    "store.zarr/a.mrc": False,
    "half_EVN.mrc.gz": False,
}


@pytest.mark.parametrize(("name", "counts"), [*(ARETOMO3 | WARP | IMOD | PLAIN).items()])
def test_reconstructions_are_told_by_their_names(name, counts):
    assert is_reconstruction(PurePosixPath(name)) is counts


@pytest.mark.parametrize(
    ("pattern", "name", "counts"),
    [
        ("*_ODD_Vol.mrc", "sub/a_ODD_Vol.mrc", True),
        ("*_ODD_Vol.mrc", "sub/a_Vol.mrc", False),
        ("*.st", "a.st", True),
        ("even/*", "even/a.mrc", True),
        ("even/*", "x/even/a.mrc", False),
        ("even/*", "even/x/a.mrc", False),
        ("**/even/*", "even/a.mrc", True),
        ("**/even/*.mrc", "x/y/even/a.mrc", True),
        ("x/**/a.mrc", "x/a.mrc", True),
        ("x/**", "x/y/a.mrc", True),
        ("x/**", "y/x/a.mrc", False),
        ("/x/*.mrc", "x/a.mrc", True),
        ("*.MRC", "a.mrc", False),
        ("*", "a__labels.mrc", False),
        ("*", ".a.mrc", False),
        ("**/*", ".hidden/a.mrc", False),
    ],
)
def test_patterns_take_the_place_of_the_rules(pattern, name, counts):
    assert is_reconstruction(PurePosixPath(name), ["nothing", pattern]) is counts


def test_folders_that_hold_no_reconstructions_are_not_looked_into():
    unsearched = {"even", "tiltstack", "a_Imod", ".git", "a.zarr"}
    assert {name for name in (*unsearched, "reconstruction", "Imod") if not is_searched(name)} == unsearched
    assert {name for name in unsearched if not is_searched(name, ["*.mrc"])} == {".git", "a.zarr"}


@pytest.mark.parametrize(
    "companion", ["Position_1_TLT.txt", "Position_1_Vol.mrc", "Position_1.rawtlt", "Position_1.mrc.mdoc"]
)
def test_what_lies_beside_a_tilt_series_tells_it_from_a_volume(tmp_path, companion):
    path = tmp_path / "Position_1.mrc"
    assert tilt_series_companion(path) is None
    (tmp_path / companion).touch()
    assert tilt_series_companion(path) == companion
    assert tilt_series_companion(tmp_path / "Position_1.rec") is None
    assert tilt_series_companion(tmp_path / "Position_10.mrc") is None


ANGLES = [-60.0, -57.0, -54.0, 0.0, 3.0, 60.0]


def agard(angle, order="<"):
    return struct.pack(f"{order}32f", angle, *[7.0] * 31)


def agard_after_integers(angle, order="<"):
    return struct.pack(f"{order}2i3f", 1000, 2000, angle, 1, 2)


def serialem(angle, order="<"):
    return struct.pack(f"{order}4h", round(100 * angle), 1000, 2000, 330)  # tilt, stage, magnification


def fei(angle, order="<"):
    return bytes(100) + struct.pack(f"{order}d", angle) + bytes(660)


def write_stack(path, sections, *, counts=(0, 0), kind=b"", order="<", ispg=0, mz=None):
    """A volume of as many sections as there are extended headers."""
    with mrcfile.new(path) as file:
        file.set_data(np.zeros((len(sections), 4, 5), f"{order}f4"))
        file.set_extended_header(np.frombuffer(b"".join(sections), "V1"))
        file.header.ispg = ispg
        file.header.mz = len(sections) if mz is None else mz
        file.header.exttyp = kind
    with path.open("r+b") as file:
        file.seek(128)
        file.write(struct.pack(f"{order}hh", *counts))
    return path


LAYOUTS = {
    "AreTomo": (agard, {"counts": (0, 32), "kind": b"AGAR"}),
    "AreTomo, no type": (agard, {"counts": (0, 32)}),
    "Agard": (agard_after_integers, {"counts": (2, 3), "kind": b"AGAR"}),
    "SerialEM": (serialem, {"counts": (8, 0b1101), "kind": b"SERI"}),
    "SerialEM, no type": (serialem, {"counts": (8, 0b1101)}),
    "FEI": (fei, {"kind": b"FEI1"}),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tilt_angles_in_the_extended_header_tell_a_tilt_series(tmp_path, layout, order):
    section, header = LAYOUTS[layout]
    path = write_stack(tmp_path / "a.mrc", [section(angle, order) for angle in ANGLES], order=order, **header)
    reason = stack_reason(path)
    assert reason is not None
    assert "-60° to 60°" in reason


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("angles", [[0.0] * 6, [5.0] * 6, [0.0, 100.0, 200.0, 0.0, 5.0, 6.0]])
def test_a_volume_with_an_extended_header_is_no_tilt_series(tmp_path, layout, angles):
    section, header = LAYOUTS[layout]
    assert stack_reason(write_stack(tmp_path / "a.mrc", [section(angle) for angle in angles], **header)) is None


def test_an_extended_header_that_is_cut_off_tells_nothing(tmp_path):
    sections = [agard(angle) for angle in ANGLES]
    path = write_stack(tmp_path / "a.mrc", sections, counts=(0, 32), kind=b"AGAR")
    path.write_bytes(path.read_bytes()[: 1024 + 3 * 128])
    assert stack_reason(path) is None
    # Three sections' headers for six sections.
    short = write_stack(tmp_path / "b.mrc", [agard(angle)[:64] for angle in ANGLES], counts=(0, 32), kind=b"AGAR")
    assert stack_reason(short) is None


def test_symmetry_operators_are_no_tilt_angles(tmp_path):
    text = b"X,  Y,  Z".ljust(80)
    assert stack_reason(write_stack(tmp_path / "a.mrc", [text] * 6, kind=b"CCP4", ispg=1)) is None


def test_a_stack_of_images_by_its_header_is_told(tmp_path):
    reason = stack_reason(write_stack(tmp_path / "a.mrc", [b""] * 6, mz=1))
    assert reason is not None
    assert "6 images" in reason
    assert stack_reason(write_stack(tmp_path / "b.mrc", [b""] * 6)) is None
    assert stack_reason(write_stack(tmp_path / "c.mrc", [b""] * 6, mz=1, ispg=1)) is None
    assert stack_reason(write_stack(tmp_path / "d.mrc", [b""], mz=1)) is None


def test_files_that_are_none_or_no_mrc_say_nothing(tmp_path):
    assert stack_reason(tmp_path / "absent.mrc") is None
    for number, content in enumerate([b"", b"MAP", bytes(2000), b"\xff" * 3000, np.arange(1500, dtype="f4").tobytes()]):
        path = tmp_path / f"{number}.mrc"
        path.write_bytes(content)
        assert stack_reason(path) is None


def test_real_volumes_are_no_stacks(shared_data):
    volumes = [path for path in (shared_data / "real").iterdir() if path.suffix in (".mrc", ".rec")]
    assert volumes
    assert [stack_reason(path) for path in volumes] == [None] * len(volumes)
