"""The folder of a bundle that is being written: whole or not there."""

from __future__ import annotations

import pytest

from tomoscribe.engine.bundle import MODEL_FILE
from tomoscribe.engine.errors import OutputError, OutputExistsError, ParameterError
from tomoscribe.export.folder import new_bundle_folder


def write(output, text="new", *, overwrite=False):
    with new_bundle_folder(output, overwrite=overwrite) as folder:
        (folder / MODEL_FILE).write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_once_it_is_complete(tmp_path):
    output = tmp_path / "above" / "model"
    with new_bundle_folder(output, overwrite=False) as folder:
        assert folder.parent == output.parent  # so that renaming never copies
        assert list(folder.iterdir()) == []
        (folder / MODEL_FILE).write_text("new")
        assert not output.exists()
    assert (output / MODEL_FILE).read_text() == "new"
    assert names(tmp_path / "above") == ["model"]


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (ParameterError("of ours"), ParameterError, "of ours"),
        (OutputExistsError("of ours"), OutputExistsError, "of ours"),
        (OSError(28, "No space left on device"), OutputError, "cannot be written .No space left on device."),
        (KeyboardInterrupt("stopped"), KeyboardInterrupt, "stopped"),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_an_error_leaves_everything_as_it_was(tmp_path, error, raised, message, there):
    output = tmp_path / "model"
    if there:
        write(output, "old")

    def fail():
        with new_bundle_folder(output, overwrite=True) as folder:
            (folder / MODEL_FILE).write_text("new")
            raise error

    with pytest.raises(raised, match=message):
        fail()
    assert names(tmp_path) == (["model"] if there else [])
    assert not there or (output / MODEL_FILE).read_text() == "old"


def test_a_bundle_that_is_there_is_replaced_only_when_asked(tmp_path):
    output = tmp_path / "model"
    write(output, "old")
    (output / "note").write_text("x")
    with pytest.raises(OutputExistsError, match="a bundle is there already"):
        write(output)
    assert names(output) == [MODEL_FILE, "note"]
    write(output, overwrite=True)
    assert names(output) == [MODEL_FILE]
    assert names(tmp_path) == ["model"]


def test_what_is_not_a_bundle_is_never_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    write(tmp_path / "other")
    (tmp_path / "link to a bundle").symlink_to(tmp_path / "other")
    before = sorted(tmp_path.rglob("*"))
    for name in ("folder", "file", "link", "link to a bundle"):
        with pytest.raises(OutputExistsError, match="is there and is not a bundle"):
            write(tmp_path / name, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write(tmp_path / "file" / "model")
    assert "\n" not in str(caught.value)


def test_a_bundle_comes_back_where_its_successor_cannot_take_its_place(tmp_path, monkeypatch):
    output = tmp_path / "model"
    write(output, "old")
    rename = type(output).rename

    def refused(path, target):
        if path.suffix == ".tmp":
            raise OSError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(type(output), "rename", refused)
    with pytest.raises(OutputError, match="Permission denied"):
        write(output, overwrite=True)
    assert (output / MODEL_FILE).read_text() == "old"
    assert names(tmp_path) == ["model"]
