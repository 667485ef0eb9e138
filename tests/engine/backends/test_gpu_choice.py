"""When a GPU is taken, which backend on it, in which precision; and what is said where none is."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from tomoscribe.engine.backends import GPU_BACKENDS, PRECISIONS, build_backend, choose_backend
from tomoscribe.engine.backends.device_group import DeviceGroup
from tomoscribe.engine.backends.gpu_choice import gpu_names, has_gpu, parse_devices
from tomoscribe.engine.backends.selection import parity_warning
from tomoscribe.engine.cuda import CudaError
from tomoscribe.engine.errors import BackendError, BackendUnavailableError, BundleError, ParameterError

PASSED, FAILED = ({"fp16": {"passed": passed, "runtime": "ONNX Runtime 1.31.1, CPU"}} for passed in (True, False))


class FakeGpuBackend:
    """Remembers how it was made; `errors` is what it fails with, by the GPU's number."""

    def __init__(self, name):
        self.name, self.errors, self.made = name, {}, []

    def __call__(self, bundle, *, precision, streams, device, building):
        if device in self.errors:
            raise self.errors[device]
        made = SimpleNamespace(
            name=self.name,
            bundle=bundle,
            precision=precision,
            streams=streams,
            device=device,
            building=building,
            closed=False,
        )
        made.close = lambda: setattr(made, "closed", True)
        self.made.append(made)
        return made

    def lacks(self, what):
        self.errors = dict.fromkeys(range(9), what)


class Machine:
    """A machine with GPUs: how many are on the bus, how many CUDA finds, and what keeps its driver from loading."""

    def __init__(self):
        self.on_bus = self.found = 2
        self.problem = None

    def load_driver(self):
        if self.problem is not None:
            raise self.problem
        facts = [SimpleNamespace(name=f"Simulated {letter}") for letter in "AB"]
        return SimpleNamespace(count_devices=lambda: self.found, facts=facts.__getitem__)


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr("tomoscribe.engine.backends.gpu_choice.find_nvidia_devices", lambda: machine.on_bus)
    monkeypatch.setattr("tomoscribe.engine.backends.gpu_choice.newest_cuda", lambda: "13.0")
    monkeypatch.setattr("tomoscribe.engine.cuda.load_driver", machine.load_driver)
    return machine


@pytest.fixture
def tensorrt(machine, monkeypatch):
    fake = FakeGpuBackend("tensorrt")
    monkeypatch.setitem(GPU_BACKENDS, "tensorrt", fake)
    return fake


@pytest.fixture(autouse=True)
def onnxruntime_cuda(machine, monkeypatch):
    fake = FakeGpuBackend("onnxruntime-cuda")
    monkeypatch.setitem(GPU_BACKENDS, "onnxruntime-cuda", fake)
    return fake


@pytest.fixture(autouse=True)
def cpu(monkeypatch):
    """What is made of the only backend on the CPU."""
    made = []

    def build(bundle, *, precision, streams):
        if precision == "fp16":
            raise BackendUnavailableError("onnxruntime: has no fp16")
        made.append(SimpleNamespace(name="onnxruntime", precision=precision, streams=streams))
        return made[-1]

    for module in ("cpu_choice", "selection"):
        monkeypatch.setattr(f"tomoscribe.engine.backends.{module}.BACKENDS", {"onnxruntime": build})
    return made


def test_the_order_is_the_fastest_first():
    assert list(GPU_BACKENDS) == ["tensorrt", "onnxruntime-cuda"]


def test_on_a_gpu_tensorrt_runs_fp16_without_a_trial(tensorrt, onnxruntime_cuda, cpu, make_bundle, monkeypatch):
    monkeypatch.delattr("tomoscribe.engine.backends.cpu_choice.run_trial")
    bundle, building = make_bundle(others=["fp16"], parity=PASSED), object()
    backend, reason = choose_backend("auto", bundle, building=building)
    assert [backend] == tensorrt.made
    assert (backend.bundle, backend.precision, backend.device) == (bundle, "fp16", 0)
    assert (backend.streams, backend.building) == (None, building)
    assert reason == "tensorrt fp16, the first that can run on GPU 0"
    assert not onnxruntime_cuda.made
    assert not cpu


@pytest.mark.parametrize(
    ("others", "parity", "why"),
    [
        ((), {}, "integers has no fp16 network, which would be faster"),
        (("fp16",), {}, "the fp16 network of integers did not pass a parity gate"),
        (("fp16",), FAILED, "the fp16 network of integers did not pass a parity gate"),
        (("fp16",), {"fp16": {"passed": "yes"}}, "the fp16 network of integers did not pass a parity gate"),
    ],
)
def test_what_no_gate_let_pass_is_not_taken_unasked(tensorrt, make_bundle, others, parity, why):
    bundle = make_bundle(others=others, parity=parity)
    backend, reason = choose_backend("auto", bundle)
    assert backend.precision == "fp32"
    assert reason == f"tensorrt fp32, the first that can run on GPU 0; {why}"
    assert parity_warning(bundle, "tensorrt", "auto") is None


def test_a_network_that_is_all_there_is_is_taken(tensorrt, make_bundle):
    bundle = make_bundle(others=["fp16"])
    del bundle.artifacts["fp32"]
    backend, reason = choose_backend("auto", bundle)
    assert (backend.precision, reason) == ("fp16", "tensorrt fp16, the first that can run on GPU 0")


def test_a_precision_that_was_asked_for_is_taken_with_a_warning(tensorrt, make_bundle):
    bundle = make_bundle(others=["fp16"], parity=FAILED)
    backend, reason = choose_backend("tensorrt", bundle, precision="fp16")
    warning = "the fp16 network of integers did not pass its parity gate: compare its labels"
    assert backend.precision == "fp16"
    assert reason.startswith(f"tensorrt fp16, as asked for; {warning}")
    assert parity_warning(bundle, "onnxruntime-cuda", "fp16").startswith(warning)
    for precision in ("fp32", "int8", "bf16"):
        assert parity_warning(bundle, "tensorrt", precision) is None
    assert parity_warning(make_bundle(parity=PASSED), "tensorrt", "fp16") is None


def test_the_next_is_taken_where_the_first_cannot_run(tensorrt, onnxruntime_cuda, make_bundle):
    tensorrt.lacks(BackendUnavailableError("tensorrt: cannot be imported"))
    backend, reason = choose_backend("auto", make_bundle(others=["fp16"], parity=PASSED))
    assert [backend] == onnxruntime_cuda.made
    assert reason == "onnxruntime-cuda fp16, the first that can run on GPU 0; tensorrt: cannot be imported"


@pytest.mark.parametrize("kind", [BackendUnavailableError, BackendError, CudaError])
def test_the_cpu_is_taken_with_the_reasons_why_no_gpu_is(tensorrt, onnxruntime_cuda, cpu, make_bundle, kind):
    tensorrt.lacks(kind("tensorrt: one"))
    onnxruntime_cuda.lacks(kind("onnxruntime-cuda: two"))
    backend, reason = choose_backend("auto", make_bundle())
    assert [backend] == cpu
    assert reason.endswith("; no GPU is used: tensorrt: one; onnxruntime-cuda: two")
    assert reason.startswith("onnxruntime fp32, ")
    assert "\n" not in reason


@pytest.mark.parametrize("kind", [BackendUnavailableError, CudaError])
def test_a_gpu_without_a_driver_is_told_once(machine, tensorrt, cpu, make_bundle, kind):
    machine.problem = kind("expected a library that calls CUDA's driver, found none")
    backend, reason = choose_backend("auto", make_bundle())
    assert [backend] == cpu
    assert reason.endswith("; no GPU is used: expected a library that calls CUDA's driver, found none")
    assert not tensorrt.made


def test_gpus_that_are_hidden_are_told(machine, tensorrt, cpu, make_bundle):
    machine.found = 0
    _, reason = choose_backend("auto", make_bundle())
    assert reason.endswith(
        "; no GPU is used: GPU 0: expected a GPU that CUDA can use, found none; see: tomoscribe doctor"
    )


@pytest.mark.parametrize("problem", [None, BackendUnavailableError("no driver"), CudaError("cuInit: broken")])
def test_without_a_gpu_nothing_is_said_of_it(machine, tensorrt, cpu, make_bundle, problem):
    machine.on_bus = machine.found = 0
    machine.problem = problem
    backend, reason = choose_backend("auto", make_bundle())
    assert [backend] == cpu
    assert "GPU" not in reason
    assert "driver" not in reason
    assert not tensorrt.made
    assert not has_gpu()


def test_a_gpu_that_is_on_no_bus_is_found_by_its_driver(machine, tensorrt, make_bundle):
    machine.on_bus = 0
    assert has_gpu()
    assert choose_backend("auto", make_bundle())[0].name == "tensorrt"


def test_where_nothing_runs_both_are_told(tensorrt, onnxruntime_cuda, make_bundle):
    tensorrt.lacks(BackendUnavailableError("tensorrt: one"))
    onnxruntime_cuda.lacks(BackendUnavailableError("tensorrt: one"))
    with pytest.raises(BackendUnavailableError, match=r"^onnxruntime: has no fp16; no GPU is used: tensorrt: one$"):
        choose_backend("auto", make_bundle(), precision="fp16")


def test_a_bad_bundle_is_not_hidden(tensorrt, make_bundle):
    tensorrt.lacks(BundleError("altered"))
    with pytest.raises(BundleError, match="altered"):
        choose_backend("auto", make_bundle())


@pytest.mark.parametrize("kind", [BackendUnavailableError, CudaError])
@pytest.mark.parametrize("how", [{"name": "tensorrt"}, {"name": "tensorrt", "device": "1"}])
def test_a_backend_that_was_asked_for_runs_or_fails(tensorrt, onnxruntime_cuda, cpu, make_bundle, kind, how):
    assert choose_backend(bundle=make_bundle(), **how)[1].startswith("tensorrt fp32, as asked for; integers has no")
    tensorrt.lacks(kind("tensorrt: broken"))
    with pytest.raises(kind, match=r"^tensorrt: broken$"):
        choose_backend(bundle=make_bundle(), **how)
    assert not onnxruntime_cuda.made
    assert not cpu


def test_a_gpu_that_was_asked_for_is_had_or_fails(machine, tensorrt, onnxruntime_cuda, cpu, make_bundle):
    backend, reason = choose_backend("auto", make_bundle(), precision="fp32", device="1")
    assert ([backend], backend.device) == (tensorrt.made, 1)
    assert reason == "tensorrt fp32, the first that can run on GPU 1"
    for device, found in (("2", "GPU 2: .* found GPUs 0 to 1"), ("0,7", "GPU 7: .* found GPUs 0 to 1")):
        with pytest.raises(BackendUnavailableError, match=found):
            choose_backend("auto", make_bundle(), device=device)
    machine.found = 1
    with pytest.raises(BackendUnavailableError, match=r"GPUs 1, 2: expected a GPU that CUDA can use, found GPU 0; see"):
        choose_backend("auto", make_bundle(), device="0,1,2")
    tensorrt.lacks(BackendUnavailableError("tensorrt: one"))
    onnxruntime_cuda.lacks(BackendError("onnxruntime-cuda: two"))
    with pytest.raises(BackendUnavailableError, match=r"^tensorrt: one; onnxruntime-cuda: two$"):
        choose_backend("auto", make_bundle(), device="0")
    machine.problem = BackendUnavailableError("no driver")
    with pytest.raises(BackendUnavailableError, match=r"^no driver$"):
        choose_backend("auto", make_bundle(), device="0")
    assert not cpu


def test_on_several_gpus_each_has_a_backend(tensorrt, make_bundle):
    backend, reason = choose_backend("auto", make_bundle(), precision="fp32", device="1, 0")
    assert isinstance(backend, DeviceGroup)
    assert [made.device for made in tensorrt.made] == [1, 0]
    assert reason == "tensorrt fp32, the first that can run on GPUs 1, 0"
    backend.close()
    assert [made.closed for made in tensorrt.made] == [True, True]


def test_where_one_of_several_gpus_cannot_be_had_the_others_are_given_back(tensorrt, onnxruntime_cuda, make_bundle):
    tensorrt.errors = {1: CudaError("tensorrt: GPU 1 is broken")}
    backend, reason = choose_backend("auto", make_bundle(), precision="fp32", device="0,1")
    assert [made.closed for made in tensorrt.made] == [True]
    assert [made.device for made in onnxruntime_cuda.made] == [0, 1]
    assert not any(made.closed for made in onnxruntime_cuda.made)
    assert backend.name == "onnxruntime-cuda"
    assert reason.endswith("; tensorrt: GPU 1 is broken")


@pytest.mark.parametrize(
    ("device", "streams", "shares"),
    [("0", None, [None]), ("0", 3, [3]), ("0,1", None, [None, None]), ("0,1", 5, [3, 2]), ("0,1", 1, [1, 1])],
)
def test_streams_are_shared_by_the_gpus_and_each_has_one(tensorrt, make_bundle, device, streams, shares):
    build_backend("tensorrt", make_bundle(), precision="fp32", streams=streams, device=device)
    assert [made.streams for made in tensorrt.made] == shares


def test_with_latency_a_single_slot_is_worked_on(tensorrt, make_bundle):
    assert choose_backend("auto", make_bundle(), latency=True)[0].streams == 1
    assert choose_backend("tensorrt", make_bundle(), latency=True)[0].streams == 1


def test_the_cpu_that_was_asked_for_is_taken(tensorrt, cpu, make_bundle):
    for name in ("auto", "onnxruntime"):
        _, reason = choose_backend(name, make_bundle(), device="cpu")
        assert "GPU" not in reason
    choose_backend("onnxruntime", make_bundle())
    assert build_backend("onnxruntime", make_bundle(), precision="fp32", streams=7) is cpu[-1]
    assert cpu[-1].streams == 7
    assert len(cpu) == 4
    assert not tensorrt.made


@pytest.mark.parametrize("make", [choose_backend, build_backend])
@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("tensorrt", "cpu", "device 'cpu': expected a GPU such as 0, or auto, for tensorrt runs on GPUs"),
        ("onnxruntime", "0", "device '0': expected cpu or auto, for onnxruntime runs on the CPU"),
        ("abacus", "cpu", "backend 'abacus': expected one of auto, tensorrt, onnxruntime-cuda, onnxruntime"),
    ],
)
def test_what_does_not_go_together_is_refused(tensorrt, cpu, make_bundle, make, name, device, message):
    with pytest.raises(ParameterError, match=message):
        make(name, make_bundle(), precision="fp32", device=device)
    assert not tensorrt.made
    assert not cpu


def test_fp16_is_a_precision():
    assert "fp16" in PRECISIONS


@pytest.mark.parametrize(
    ("device", "numbers"),
    [("auto", None), ("cpu", ()), ("0", (0,)), ("12", (12,)), ("3,1", (3, 1)), (" 0 , 2", (0, 2))],
)
def test_devices_are_numbers(device, numbers):
    assert parse_devices(device) == numbers


@pytest.mark.parametrize("device", ["", "gpu", "cuda:0", "0,", "0,0", "0,00", "-1", "1.5", "cpu,0", "²", "٣", "0 1"])
def test_what_is_no_device_is_refused(device):
    with pytest.raises(ParameterError, match=f"device '{device}': expected auto, cpu, or the numbers of GPUs"):
        parse_devices(device)


def test_gpus_have_names(machine):
    assert gpu_names([1, 0]) == {1: "Simulated B", 0: "Simulated A"}


OF_CUDA = "('cuda', 'pycuda', 'tensorrt', 'tomoscribe.engine.cuda')"


@pytest.mark.parametrize(
    ("device", "driver", "imported"), [("cpu", "13.0", False), ("auto", None, False), ("auto", "13.0", True)]
)
def test_on_the_cpu_nothing_of_cuda_is_imported(tiny_bundle, tmp_path, volumes, device, driver, imported):
    path = volumes.write(tmp_path / "a.mrc", volumes.values())
    code = (
        "import sys\n"
        # Whether or not this machine has a GPU, it has none on its bus.
        "from tomoscribe.engine.backends import gpu_choice\n"
        "gpu_choice.find_nvidia_devices = lambda: 0\n"
        f"gpu_choice.newest_cuda = lambda: {driver!r}\n"
        "from tomoscribe.engine import segment\n"
        f"segment({str(path)!r}, model={str(tiny_bundle)!r}, device={device!r})\n"
        f"print(any(name.startswith({OF_CUDA}) for name in sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(imported)
