#!/bin/sh
# Carries what gpu.py needs to a GPU machine without a network, and runs it there.
#
#   benchmarks/gpu_node.sh pack PARTS            with a network: wheels, and pycuda as source, in parts of 60 MiB
#   benchmarks/gpu_node.sh install PARTS         there: puts them together and installs them; pycuda takes minutes
#   benchmarks/gpu_node.sh run PARTS [OPTION …]  the same if that was not done yet, and gpu.py
#
# All are run in the repository's folder. PYTHON chooses another python3; PYTHON_VERSION (3.12) is that of the GPU
# machine, MACHINE (x86_64) its processor, PARTS_MIB the size of a part. PACKAGES are downloaded without what they depend
# on, which a machine with PyTorch mostly has; name more of them where it has not. With a TensorRT of the machine's own, or
# among PACKAGES, that is measured too.
#
# Nothing is written outside of PARTS but what gpu.py is asked for. pycuda is compiled where nvcc is (CUDA_ROOT says where,
# if it is not in PATH), and left out where it cannot be. A part is checked by its sum; wheel_parts.py has the details.
set -eu

PYTHON=${PYTHON:-python3}
PYTHON_VERSION=${PYTHON_VERSION:-3.12}
MACHINE=${MACHINE:-x86_64}
PARTS_MIB=${PARTS_MIB:-60}
PACKAGES=${PACKAGES:-onnxruntime-gpu flatbuffers mrcfile tifffile monai hypothesis setuptools pytools siphash24 platformdirs}

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

pack() {
    wheels=$1/wheels
    mkdir -p "$wheels"
    platforms=
    for glibc in 2_28 2_27 2_24 2_17; do
        platforms="$platforms --platform manylinux_${glibc}_$MACHINE"
    done
    # Each word is an argument of its own.
    # shellcheck disable=SC2086
    "$PYTHON" -m pip download --no-deps --only-binary=:all: --implementation cp --python-version "$PYTHON_VERSION" \
        $platforms --platform "manylinux2014_$MACHINE" --dest "$wheels" $PACKAGES
    "$PYTHON" -m pip download --no-deps --no-binary=pycuda --dest "$wheels" pycuda
    for file in "$wheels"/*; do
        "$PYTHON" benchmarks/wheel_parts.py split "$file" --size "$PARTS_MIB" --output "$1"
    done
    rm -r "$wheels"
    echo "bring $1 and this repository to the GPU machine, and there: benchmarks/gpu_node.sh run PARTS"
}

install() {
    wheels=$1/wheels site=$1/site copy=$1/source
    pip="$PYTHON -m pip install --quiet --disable-pip-version-check --no-index --no-deps --upgrade --target $site"
    PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH
    if [ ! -e "$1/installed" ]; then
        "$PYTHON" benchmarks/wheel_parts.py join "$1" --output "$wheels"
        # The wheels first: they may be what the sources are built with.
        $pip "$wheels"/*.whl
        if [ -n "${CUDA_ROOT:-}" ] || command -v nvcc >/dev/null; then
            $pip --no-build-isolation "$wheels"/pycuda-*.tar.gz || echo "pycuda cannot be built; going on without" >&2
        else
            echo "no nvcc, so no pycuda" >&2
        fi
        touch "$1/installed"
    fi
    # What is built leaves its traces beside the sources.
    rm -rf "$copy"
    mkdir "$copy"
    cp -R engine train export cli pyproject.toml README.md LICENSE "$copy"
    $pip --no-build-isolation "$copy"
}

run() {
    install "$1"
    shift
    exec "$PYTHON" benchmarks/gpu.py "$@"
}

[ $# -ge 2 ] || usage
verb=$1
shift
case $verb in
    pack | install | run) "$verb" "$@" ;;
    *) usage ;;
esac
