"""Fetch the official Python bindings of TensorRT, a megabyte each, and make them importable without TensorRT or a GPU.

The bindings need three libraries, of which they name nine functions. They are compiled here and do nothing: enough to
read every class and signature. What is there already is left alone. Usage: python tests/tensorrt_bindings/fetch.py
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# The oldest that is supported, and the newest of both major versions.
VERSIONS = ("10.13.3.9", "10.16.1.11", "11.4.0.106")
FOLDER = Path(__file__).resolve().parents[2] / "build" / "tensorrt_bindings"
LIBRARIES = ("libnvinfer.so", "libnvonnxparser.so", "libnvinfer_plugin.so")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


def fetch(version: str, folder: Path) -> None:
    """Unpack the wheel of a version for this Python, and compile the libraries beside it."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--dest", folder, f"tensorrt-cu13-bindings=={version}"], check=True)
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
        wheel.unlink()
    source = folder / "stubs.c"
    source.write_text("".join(f"void *{function}(void) {{ return 0; }}\n" for function in FUNCTIONS))
    for library in LIBRARIES:
        name = f"{library}.{version.partition('.')[0]}"
        subprocess.run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, source], check=True)


def main() -> None:
    """Fetch every version that is not there yet."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for version in VERSIONS:
        target = FOLDER / version
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=FOLDER) as beside:
                made = Path(beside) / version
                made.mkdir()
                fetch(version, made)
                made.rename(target)


if __name__ == "__main__":
    main()
