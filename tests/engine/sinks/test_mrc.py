from __future__ import annotations

import errno
import os
import resource
import struct
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP, ClassMap, LabelClass
from tomoscribe.engine.errors import OutputError, ParameterError
from tomoscribe.engine.sinks.contract import Sink
from tomoscribe.engine.sinks.mrc import ClassVolume, LabelVolume
from tomoscribe.engine.tomogram import Geometry, open_tomogram

RIBOSOME = DEFAULT_CLASS_MAP.classes[1]
ALL = range(1, 6)
GEOMETRY = Geometry(
    (4, 5, 6), voxel_size=(10.5, 11.5, 12.5), origin=(100.25, -200.5, 300.0), start=(-1, 2, 3), map_axes=(1, 2, 3)
)


def many_classes(count: int) -> ClassMap:
    return ClassMap(tuple(LabelClass(number, f"feature {number}", (1, 2, 3)) for number in range(1, count + 1)))


def random_result(shape: tuple[int, int, int], classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(7)
    depth, height, width = shape
    labels = random.integers(0, classes, shape, np.uint8)
    return labels, random.integers(0, 256, (depth, classes, height, width), np.uint8)


def complete(sink: Sink) -> Path:
    sink.prepare()
    sink.commit()
    return sink.path


def write_all(sink: Sink, labels: np.ndarray, scores: np.ndarray, run: int = 3) -> Path:
    for start in range(0, len(labels), run):
        sink.write(start, labels[start : start + run], scores[start : start + run])
    return complete(sink)


def assert_valid(path: Path) -> None:
    with warnings.catch_warnings(action="error"), Path(os.devnull).open("w") as nowhere:
        assert mrcfile.validate(path, print_file=nowhere)


@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    axes=st.sampled_from(("xyz", "xzy")),
    run=st.integers(1, 6),
    keep=st.sets(st.integers(1, 5)),
    written=st.tuples(st.integers(0, 6), st.integers(0, 6)),
)
def test_what_is_written_is_what_mrcfile_reads(shape, axes, run, keep, written):
    labels, scores = random_result(shape)
    first, last = sorted(min(z, shape[0]) for z in written)
    geometry = Geometry(shape, (10.0, 10.0, 10.0), axes=axes)
    with tempfile.TemporaryDirectory() as folder:
        label_volume = LabelVolume(Path(folder, "l.mrc"), geometry, DEFAULT_CLASS_MAP, keep=keep, provenance="p")
        class_volume = ClassVolume(Path(folder, "c.mrc"), geometry, RIBOSOME, provenance="p")
        for sink in (label_volume, class_volume):
            for start in range(first, last, run):
                stop = min(start + run, last)
                sink.write(start, labels[start:stop], scores[start:stop])
            complete(sink)
        expected_labels, expected_scores = np.zeros(shape, np.int8), np.zeros(shape, np.int8)
        expected_labels[first:last] = np.where(np.isin(labels, list(keep)), labels, 0)[first:last]
        expected_scores[first:last] = scores[first:last, 2] // 2
        for sink, expected in ((label_volume, expected_labels), (class_volume, expected_scores)):
            assert_valid(sink.path)
            with mrcfile.open(sink.path) as file:
                assert file.data.dtype == np.int8
                np.testing.assert_array_equal(file.data, expected if axes == "xyz" else expected.swapaxes(0, 1))
                assert file.header.dmin == expected.min()
                assert file.header.dmax == expected.max()
                assert file.header.dmean == pytest.approx(expected.mean(), rel=1e-6)
                assert file.header.rms == pytest.approx(expected.std(), rel=1e-5, abs=1e-6)
            with open_tomogram(sink.path, axes=axes) as tomogram:
                out = np.empty(shape, np.int8)
                tomogram.read_slices(0, out)
                assert tomogram.geometry == geometry
            np.testing.assert_array_equal(out, expected)


def test_header(tmp_path):
    labels, scores = random_result(GEOMETRY.shape)
    sink = LabelVolume(
        tmp_path / "l.mrc", GEOMETRY, DEFAULT_CLASS_MAP, keep=[4, 1], provenance="tomoscribe 0.1.0 labels"
    )
    path = write_all(sink, labels, scores)
    assert_valid(path)
    with mrcfile.open(path) as file:
        header = file.header
        assert file.is_volume()
        assert file.voxel_size.item() == (10.5, 11.5, 12.5)
        assert header.origin.item() == (100.25, -200.5, 300.0)
        assert file.nstart.item() == (-1, 2, 3)
        assert (header.mx, header.my, header.mz) == (6, 5, 4)
        assert header.cellb.item() == (90.0, 90.0, 90.0)
        assert (header.mode, header.ispg, header.nsymbt, header.nversion) == (0, 1, 0, 20141)
        assert file.get_labels() == ["tomoscribe 0.1.0 labels", "0 background; 1 microtubule; 4 single membrane"]
    # IMOD: stamp, and flags for signed bytes (1), the standard's sign of the origin (4) and a negative rms (8).
    assert struct.unpack_from("<ii", path.read_bytes(), 152) == (1146047817, 13)
    assert path.stat().st_size == 1024 + 4 * 5 * 6


def test_score_header_says_what_a_score_is(tmp_path):
    geometry = Geometry((1, 1, 4), (10.0, 10.0, 10.0))
    scores = np.zeros((1, 6, 1, 4), np.uint8)
    scores[0, 2, 0] = [0, 127, 128, 255]
    path = write_all(ClassVolume(tmp_path / "c.mrc", geometry, RIBOSOME, provenance="p"), scores[:, 0], scores)
    with mrcfile.open(path) as file:
        assert file.data.ravel().tolist() == [0, 63, 64, 127]
        assert file.get_labels() == ["p", "score of 2 ribosome: 0 to 127 is probability 0 to 1, 64 is 0.5"]


@pytest.mark.parametrize("map_axes", [(1, 2, 3), (3, 1, 2), (2, 3, 1), (1, 3, 2)])
def test_voxel_size_survives_any_axis_order(tmp_path, map_axes):
    labels, scores = random_result((4, 5, 6))
    geometry = Geometry((4, 5, 6), (10.5, 11.5, 12.5), start=(7, 8, 9), map_axes=map_axes)
    path = write_all(
        LabelVolume(tmp_path / "l.mrc", geometry, DEFAULT_CLASS_MAP, keep=ALL, provenance="p"), labels, scores
    )
    with mrcfile.open(path) as file:
        header = file.header
        assert file.voxel_size.item() == (10.5, 11.5, 12.5)
        assert (header.mapc, header.mapr, header.maps) == map_axes
        sampling = (header.mx, header.my, header.mz)
        assert [sampling[axis - 1] for axis in map_axes] == [6, 5, 4]
    with open_tomogram(path) as tomogram:
        assert tomogram.geometry == geometry


def test_a_turned_volume_is_written_in_the_files_own_order(tmp_path):
    geometry = Geometry((4, 5, 6), (10.0, 20.0, 30.0), origin=(1.0, 2.0, 3.0), start=(7, 8, 9), axes="xzy")
    labels, scores = random_result(geometry.shape)
    path = write_all(
        LabelVolume(tmp_path / "l.mrc", geometry, DEFAULT_CLASS_MAP, keep=ALL, provenance="p"), labels, scores
    )
    with mrcfile.open(path) as file:
        np.testing.assert_array_equal(file.data, labels.transpose(1, 0, 2))
        assert file.voxel_size.item() == (10.0, 30.0, 20.0)
        assert file.header.origin.item() == (1.0, 3.0, 2.0)
        assert file.nstart.item() == (7, 9, 8)


def test_the_sign_of_the_origin_is_declared_as_the_tomogram_does(tmp_path):
    """IMOD negates the origin if `nversion` or flag 4 is set (`mrc_head_read`), so both have to be clear here."""
    geometry = Geometry((1, 2, 3), (10.0, 10.0, 10.0), origin=(5.0, 6.0, 7.0), standard_origin=False)
    labels, scores = random_result(geometry.shape)
    path = write_all(
        LabelVolume(tmp_path / "l.mrc", geometry, DEFAULT_CLASS_MAP, keep=ALL, provenance="p"), labels, scores
    )
    content = path.read_bytes()
    assert struct.unpack_from("<ii", content, 152) == (1146047817, 9)
    assert struct.unpack_from("<i", content, 108) == (0,)
    assert struct.unpack_from("<fff", content, 196) == (5.0, 6.0, 7.0)
    with open_tomogram(path) as tomogram:
        assert tomogram.geometry == geometry


def test_unknown_voxel_size_stays_unknown(tmp_path):
    labels, scores = random_result((2, 3, 4))
    path = write_all(
        LabelVolume(tmp_path / "l.mrc", Geometry((2, 3, 4)), DEFAULT_CLASS_MAP, keep=ALL, provenance="p"),
        labels,
        scores,
    )
    assert_valid(path)
    with mrcfile.open(path) as file:
        assert file.voxel_size.item() == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("count", "dtype"), [(127, np.int8), (128, np.uint16), (255, np.uint16)])
def test_labels_that_do_not_fit_signed_bytes_are_widened(tmp_path, count, dtype):
    geometry = Geometry((1, 16, 16), (10.0, 10.0, 10.0))
    labels = (np.arange(256) % (count + 1)).astype(np.uint8).reshape(1, 16, 16)
    sink = LabelVolume(
        tmp_path / "l.mrc", geometry, many_classes(count), keep=range(1, count + 1), provenance="p" * 200
    )
    sink.write(0, labels, np.zeros((1, 2, 16, 16), np.uint8))
    complete(sink)
    assert_valid(sink.path)
    with mrcfile.open(sink.path) as file:
        assert file.data.dtype == dtype
        np.testing.assert_array_equal(file.data, labels)
        assert file.header.nlabl == 10


def test_names_that_are_not_ascii(tmp_path):
    class_map = ClassMap((LabelClass(1, "Kähler", (1, 2, 3)),))
    sink = LabelVolume(tmp_path / "l.mrc", GEOMETRY, class_map, keep=[1], provenance="modèle")
    complete(sink)
    assert_valid(sink.path)
    with mrcfile.open(sink.path) as file:
        assert file.get_labels() == ["mod?le", "0 background; 1 K?hler"]


def test_arrays_of_any_layout(tmp_path):
    labels, scores = random_result((4, 5, 6))
    turned = np.asfortranarray(labels), np.asfortranarray(scores)
    label_path = write_all(
        LabelVolume(tmp_path / "l.mrc", GEOMETRY, DEFAULT_CLASS_MAP, keep=ALL, provenance="p"), *turned
    )
    class_path = write_all(ClassVolume(tmp_path / "c.mrc", GEOMETRY, RIBOSOME, provenance="p"), *turned)
    np.testing.assert_array_equal(mrcfile.read(label_path), labels)
    np.testing.assert_array_equal(mrcfile.read(class_path), scores[:, 2] // 2)


def test_nothing_is_there_before_commit_and_nothing_after_abort(tmp_path):
    labels, scores = random_result(GEOMETRY.shape)
    path = tmp_path / "l.mrc"
    path.write_text("an older output")
    sink = LabelVolume(path, GEOMETRY, DEFAULT_CLASS_MAP, keep=ALL, provenance="p")
    sink.write(0, labels, scores)
    assert path.read_text() == "an older output"
    assert all(entry == path or entry.name.startswith(".l.mrc.") for entry in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 2
    sink.abort()
    sink.abort()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "an older output"


def test_all_is_on_the_disk_before_commit_which_renames_alone(tmp_path, monkeypatch):
    labels, scores = random_result(GEOMETRY.shape)
    path = tmp_path / "l.mrc"
    path.write_text("an older output")
    sink = LabelVolume(path, GEOMETRY, DEFAULT_CLASS_MAP, keep=ALL, provenance="p")
    sink.write(0, labels, scores)
    sink.prepare()
    assert path.read_text() == "an older output"
    (temporary,) = set(tmp_path.iterdir()) - {path}
    assert_valid(temporary)
    content = temporary.read_bytes()
    for call in ("open", "pwrite", "fsync", "ftruncate"):
        monkeypatch.delattr(os, call)
    sink.commit()
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == content


def test_a_prepared_file_can_be_given_up(tmp_path):
    sink = LabelVolume(tmp_path / "l.mrc", GEOMETRY, DEFAULT_CLASS_MAP, keep=ALL, provenance="p")
    sink.prepare()
    sink.abort()
    assert not list(tmp_path.iterdir())


def test_outputs_have_the_permissions_of_any_new_file(tmp_path):
    sink = LabelVolume(tmp_path / "l.mrc", GEOMETRY, DEFAULT_CLASS_MAP, keep=ALL, provenance="p")
    complete(sink)
    (tmp_path / "plain").touch()
    assert sink.path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(("start", "shape"), [(-1, (1, 5, 6)), (3, (2, 5, 6)), (0, (1, 6, 5)), (0, (1, 5, 7))])
def test_runs_that_do_not_fit_are_refused(tmp_path, start, shape):
    sink = LabelVolume(tmp_path / "l.mrc", GEOMETRY, DEFAULT_CLASS_MAP, keep=ALL, provenance="p")
    with pytest.raises(ParameterError, match="expected slices of"):
        sink.write(start, np.zeros(shape, np.uint8), np.zeros((1, 6, 5, 6), np.uint8))
    sink.abort()


@pytest.mark.parametrize("keep", [[0], [6], [1, 300]])
def test_only_labels_of_the_class_map_can_be_kept(tmp_path, keep):
    with pytest.raises(ParameterError, match="labels from 1 to 5"):
        LabelVolume(tmp_path / "l.mrc", GEOMETRY, DEFAULT_CLASS_MAP, keep=keep, provenance="p")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match=r"missing/l\.mrc: cannot be written: No such file or directory"):
        LabelVolume(tmp_path / "missing" / "l.mrc", GEOMETRY, DEFAULT_CLASS_MAP, keep=ALL, provenance="p")


def test_a_name_that_is_a_folder(tmp_path):
    (tmp_path / "l.mrc").mkdir()
    sink = LabelVolume(tmp_path / "l.mrc", GEOMETRY, DEFAULT_CLASS_MAP, keep=ALL, provenance="p")
    sink.prepare()
    with pytest.raises(OutputError, match="Is a directory"):
        sink.commit()
    assert [entry.name for entry in tmp_path.iterdir()] == ["l.mrc"]


@pytest.mark.parametrize("call", ["ftruncate", "pwrite", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, call, number):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    labels, scores = random_result(GEOMETRY.shape)
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutputError, match=os.strerror(number)) as caught:
        write_all(ClassVolume(tmp_path / "c.mrc", GEOMETRY, RIBOSOME, provenance="p"), labels, scores)
    assert str(caught.value).startswith(f"{tmp_path / 'c.mrc'}: cannot be written: ")
    assert str(tmp_path) in str(caught.value).split(": ", 2)[2]
    assert not list(tmp_path.iterdir())


def test_short_writes_are_continued(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, view, position: pwrite(file, view[:7], position))
    labels, scores = random_result(GEOMETRY.shape)
    path = write_all(
        LabelVolume(tmp_path / "l.mrc", GEOMETRY, DEFAULT_CLASS_MAP, keep=ALL, provenance="p"), labels, scores
    )
    np.testing.assert_array_equal(mrcfile.read(path), labels)


def test_a_real_limit_on_the_size_of_files(tmp_path):
    script = (
        "import sys; from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP as m\n"
        "from tomoscribe.engine.sinks.mrc import LabelVolume; from tomoscribe.engine.tomogram import Geometry\n"
        "try: LabelVolume(sys.argv[1], Geometry((99, 99, 99)), m, keep=[1], provenance='p')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "l.mrc")],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)),
    )
    assert result.stdout.startswith(f"OutputError {tmp_path / 'l.mrc'}: cannot be written: File too large")
    assert not list(tmp_path.iterdir())


def test_slices_that_are_never_written_take_no_space(tmp_path):
    geometry = Geometry((1000, 1000, 1000), (10.0, 10.0, 10.0))
    sink = ClassVolume(tmp_path / "c.mrc", geometry, RIBOSOME, provenance="p")
    sink.write(500, np.zeros((1, 1000, 1000), np.uint8), np.full((1, 6, 1000, 1000), 200, np.uint8))
    complete(sink)
    status = sink.path.stat()
    assert status.st_size == 1024 + 10**9
    assert status.st_blocks * 512 < 10**7
    with mrcfile.open(sink.path, header_only=True) as file:
        assert file.header.dmean == pytest.approx(0.1)
        assert (file.header.dmin, file.header.dmax) == (0, 100)


@pytest.mark.parametrize(
    "name",
    [
        "odd/float16.mrc",
        "odd/imod_flags13_int16.mrc",
        "odd/mode0_2d_no_map_id.mrc",
        "odd/mode6_movie.mrc",
        "odd/nonzero_starts.map",
        "odd/tests_test_data_EMD-3001.map.bz2",
        "odd/tests_test_data_emd_3197.map.gz",
        "real/blobs_27x32x22.rec",
        "real/crop_20x30x40.mrc",
        "real/membrane_16.rec",
        "simulated/vesicles_100.mrc",
    ],
)
def test_labels_lie_where_their_real_tomogram_lies(shared_data, tmp_path, name):
    with open_tomogram(shared_data / name) as tomogram:
        geometry = tomogram.geometry
    sink = LabelVolume(tmp_path / "l.mrc", geometry, DEFAULT_CLASS_MAP, keep=ALL, provenance="p")
    complete(sink)
    with warnings.catch_warnings(action="ignore"):
        tomogram_file = mrcfile.open(shared_data / name, permissive=True, header_only=True)
    with tomogram_file as theirs, mrcfile.open(sink.path) as ours:
        assert ours.data.shape == geometry.shape
        for field in ("nx", "ny", "nz", "mapc", "mapr", "maps", "origin"):
            assert ours.header[field] == theirs.header[field]
        assert ours.nstart == theirs.nstart
        expected = [size if np.isfinite(size) and size > 0 else 0.0 for size in theirs.voxel_size.item()]
        assert ours.voxel_size.item() == pytest.approx(expected, rel=2e-7)
    if geometry.standard_origin:
        assert_valid(sink.path)
