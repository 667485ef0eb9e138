from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomoscribe.engine import ParameterError, TomogramNotFoundError
from tomoscribe.engine.inputs import check_output_names, find_tomograms, tomogram_stem
from tomoscribe.engine.outputs import OutputPaths


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return paths


def names(found) -> list[str]:
    return [path.name for path in found.tomograms]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.mrc", "a"),
        ("a.mrc.gz", "a"),
        ("a.rec.bz2", "a"),
        ("a.MRC", "a"),
        ("a.tiff", "a"),
        ("a.st", "a"),
        ("a.rec.mrc", "a.rec"),
        ("TS_01_10.00Apx.mrc", "TS_01_10.00Apx"),
        ("TS_01_10.00Apx", "TS_01_10.00Apx"),
        ("a.dat", "a.dat"),
        ("a.gz", "a"),
        (".mrc", ".mrc"),
    ],
)
def test_stem_loses_what_is_known_and_nothing_else(name, stem):
    assert tomogram_stem(Path("some.where") / name) == stem


@given(st.text(st.sampled_from("ab._-mrcgzstif"), min_size=1, max_size=20).filter(lambda text: set(text) != {"."}))
def test_no_output_has_the_name_of_its_input(name):
    paths = OutputPaths.of(Path("folder") / name, None)
    assert Path("folder") / name not in {paths.labels, paths.sidecar, paths.picture}
    assert tomogram_stem(Path(name))


def test_a_folder_gives_its_tomograms_and_nothing_else(tmp_path):
    touch(tmp_path, "c.tif", "b.rec", "a.mrc", "d.map.gz", "e.mrc.bz2", "F.MRC", "odd_one.mrc", "x_ODDITY.mrc")
    left_out = touch(tmp_path, "a__labels.mrc", "b__Ribosome.mrc", "g_EVN.mrc", "g_ODD.mrc", "g_EVN_Vol.mrc")
    touch(
        tmp_path, ".hidden.mrc", "a.st", "a.ali", "a.preali", "a.mrcs", "notes.txt", "a.tif.gz", "a.mrc~", "sub/z.mrc"
    )
    (tmp_path / "folder.mrc").mkdir()
    found = find_tomograms([tmp_path])
    assert names(found) == sorted(
        ["a.mrc", "b.rec", "c.tif", "d.map.gz", "e.mrc.bz2", "F.MRC", "odd_one.mrc", "x_ODDITY.mrc"]
    )
    assert set(found.left_out) == set(left_out)


def test_a_pattern_gives_what_matches_as_a_folder_would(tmp_path):
    touch(tmp_path, "1/a.mrc", "2/b.mrc", "2/b_ODD.mrc", "2/b__labels.mrc", "2/deep/c.mrc", "2/d.rec")
    assert names(find_tomograms([tmp_path / "*/*.mrc"])) == ["a.mrc", "b.mrc"]
    assert names(find_tomograms([tmp_path / "**/*.mrc"])) == ["a.mrc", "b.mrc", "c.mrc"]
    assert names(find_tomograms([tmp_path / "2/?.*"])) == ["b.mrc", "d.rec"]


def test_a_name_with_brackets_is_a_file_first(tmp_path):
    (path,) = touch(tmp_path, "a[1].mrc")
    touch(tmp_path, "a1.mrc")
    assert find_tomograms([str(path)]).tomograms == (path,)


def test_a_file_that_is_named_is_taken_whatever_its_name(tmp_path):
    paths = touch(tmp_path, "a_ODD.mrc", "b__Ribosome.mrc", "c.st", "d.unknown", ".e.mrc")
    missing = tmp_path / "missing.mrc"
    assert find_tomograms([*paths, missing]).tomograms == (*paths, missing)


def test_earlier_outputs_are_left_out_though_the_shell_names_them(tmp_path):
    wanted, *outputs = touch(tmp_path, "a.mrc", "a__labels.mrc", "a__Ribosome.mrc")
    (foreign,) = touch(tmp_path, "b__Ribosome.mrc")
    sidecar = {"labels": "a__labels.mrc", "class_volumes": {"ribosome": "a__Ribosome.mrc"}}
    (tmp_path / "a__labels.json").write_text(json.dumps(sidecar), encoding="utf-8")
    found = find_tomograms([*outputs, wanted, foreign])
    assert found.tomograms == (wanted, foreign)
    assert found.left_out == tuple(outputs)
    with pytest.raises(TomogramNotFoundError, match="earlier outputs"):
        find_tomograms(outputs)


def test_a_list_names_files_folders_and_patterns_relative_to_itself(tmp_path, monkeypatch):
    touch(tmp_path, "lists/a.mrc", "lists/sub/b.mrc", "lists/sub/c.mrc")
    (elsewhere,) = touch(tmp_path, "elsewhere/d.mrc")
    list_file = tmp_path / "lists" / "night.txt"
    list_file.write_text(f"# tonight\n\n a.mrc \nsub/*c.mrc\nsub\n{elsewhere}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert names(find_tomograms(["lists/night.txt"])) == ["a.mrc", "c.mrc", "b.mrc", "d.mrc"]


def test_brackets_in_the_name_of_a_lists_folder_are_no_pattern(tmp_path):
    touch(tmp_path, "b[1]/a.mrc", "b[1]/c.mrc", "b1/wrong.mrc")
    (tmp_path / "b[1]" / "list.txt").write_text("[ac].mrc\nmissing.mrc\n")
    found = find_tomograms([tmp_path / "b[1]" / "list.txt"])
    assert found.tomograms == tuple(tmp_path / "b[1]" / name for name in ("a.mrc", "c.mrc", "missing.mrc"))
    (tmp_path / "b[1]" / "list.txt").write_text("x*.mrc\n")
    with pytest.raises(TomogramNotFoundError, match=re.escape(f"{tmp_path / 'b[1]' / 'x*.mrc'}: no tomogram matches")):
        find_tomograms([tmp_path / "b[1]" / "list.txt"])


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    touch(tmp_path, "a.mrc")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names(find_tomograms(["~/*.mrc"])) == ["a.mrc"]


def test_order_is_kept_and_what_comes_twice_is_taken_once(tmp_path, monkeypatch):
    first, second = touch(tmp_path, "z.mrc", "a.mrc")
    monkeypatch.chdir(tmp_path)
    found = find_tomograms([first, "z.mrc", ".", "./a.mrc", tmp_path / "." / "z.mrc", "*.mrc"])
    assert [os.path.normpath(path.absolute()) for path in found.tomograms] == [str(first), str(second)]


def test_a_file_that_is_named_is_not_also_left_out(tmp_path):
    (half,) = touch(tmp_path, "a_ODD.mrc")
    touch(tmp_path, "b.mrc")
    found = find_tomograms([tmp_path, half])
    assert names(found) == ["b.mrc", "a_ODD.mrc"]
    assert found.left_out == ()


def test_an_input_that_gives_nothing_is_an_error_that_says_so(tmp_path):
    touch(tmp_path, "full/a__labels.mrc", "full/b.txt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "nested.txt").write_text("empty.txt\n")
    with pytest.raises(TomogramNotFoundError, match=r"empty: no tomogram.*\.mrc"):
        find_tomograms([tmp_path / "empty"])
    with pytest.raises(TomogramNotFoundError, match="1 that are earlier outputs"):
        find_tomograms([tmp_path / "full"])
    with pytest.raises(TomogramNotFoundError, match="no tomogram matches"):
        find_tomograms([tmp_path / "*.mrc"])
    with pytest.raises(TomogramNotFoundError, match="names no tomogram"):
        find_tomograms([tmp_path / "empty.txt"])
    with pytest.raises(ParameterError, match=r"binary\.txt: expected a text file"):
        find_tomograms([tmp_path / "binary.txt"])
    with pytest.raises(ParameterError, match="another list"):
        find_tomograms([tmp_path / "nested.txt"])
    with pytest.raises(TomogramNotFoundError, match="no input"):
        find_tomograms([])


def test_a_name_that_no_file_can_have_is_seen_when_it_is_opened(tmp_path):
    (good,) = touch(tmp_path, "a.mrc")
    impossible = [tmp_path / ("x" * 300 + ending) for ending in (".mrc", ".txt", "*.mrc", "__Ribosome.mrc")]
    found = find_tomograms([impossible[0], impossible[1], impossible[3], good])
    assert found.tomograms == (impossible[0], impossible[1], impossible[3], good)
    with pytest.raises(TomogramNotFoundError, match="no tomogram matches"):
        find_tomograms([impossible[2]])


@pytest.mark.parametrize("method", ["iterdir", "is_file"])
def test_a_folder_that_may_not_be_looked_into_is_one_line(tmp_path, monkeypatch, method):
    touch(tmp_path, "closed/a.mrc")

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(
        ParameterError, match=r"closed: cannot be searched .*closed.*: Permission denied; check"
    ) as caught:
        find_tomograms([tmp_path / "closed"])
    assert "\n" not in str(caught.value)


def test_a_zarr_folder_is_one_input(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    assert find_tomograms([tmp_path / "a.zarr"]).tomograms == (tmp_path / "a.zarr",)


def test_two_tomograms_may_not_write_the_same_files(tmp_path):
    beside = [tmp_path / "a.mrc", tmp_path / "a.rec.gz"]
    apart = [tmp_path / "1" / "a.mrc", tmp_path / "2" / "a.mrc"]
    with pytest.raises(ParameterError, match=r"a\.rec\.gz.*a\.mrc"):
        check_output_names(beside)
    check_output_names(apart)
    with pytest.raises(ParameterError, match=r"2/a\.mrc.*1/a\.mrc"):
        check_output_names(apart, tmp_path / "out")


def test_a_file_of_the_users_with_two_underscores_is_no_output(tmp_path):
    sidecar = {"labels": "a__labels.mrc", "class_volumes": {"ribosome": "a__Ribosome.mrc"}}
    (tmp_path / "a__labels.json").write_text(json.dumps(sidecar), encoding="utf-8")
    for name in ("a__denoised.mrc", "a__labels.mrc", "a__Ribosome.mrc"):
        (tmp_path / name).touch()
    assert find_tomograms([tmp_path / "a__denoised.mrc"]).tomograms == (tmp_path / "a__denoised.mrc",)
    found = find_tomograms([tmp_path / name for name in ("a__denoised.mrc", "a__labels.mrc", "a__Ribosome.mrc")])
    assert len(found.tomograms) == 1
    assert len(found.left_out) == 2


def test_a_list_from_windows_keeps_its_first_entry_and_binary_data_is_no_list(tmp_path):
    (tmp_path / "a.mrc").touch()
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffa.mrc\r\n".encode())
    assert find_tomograms([path]).tomograms == (tmp_path / "a.mrc",)
    path.write_bytes(b"a\0b\n")
    with pytest.raises(ParameterError, match="binary"):
        find_tomograms([path])
