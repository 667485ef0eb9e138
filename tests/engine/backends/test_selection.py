"""Which backend is chosen, and what is said of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tomoscribe.engine.backends import BACKENDS, choose_backend
from tomoscribe.engine.backends.processor import Processor
from tomoscribe.engine.backends.selection import parity_warning
from tomoscribe.engine.backends.trial import Trial
from tomoscribe.engine.errors import BackendError, BackendUnavailableError, BundleError, ParameterError

ABLE = Processor("processor", exact_int8=True, bf16=True)
PLAIN = Processor("processor", exact_int8=False, bf16=False)


class Fake:
    """A backend that only remembers how it was made, and whether it was closed."""

    made: list[Fake]
    precisions = ("fp32", "int8")

    def __init__(self, bundle, *, precision, streams):
        if precision not in self.precisions:
            raise BackendUnavailableError(f"{type(self).__name__}: has no {precision}")
        self.bundle, self.precision, self.streams, self.closed = bundle, precision, streams, False
        self.made.append(self)

    def close(self):
        self.closed = True


class Swift(Fake):
    name = "openvino"


class Slow(Fake):
    name = "onnxruntime"
    precisions = ("fp32", "bf16", "int8")


class OpenVino(Fake):
    name = "openvino"
    precisions = ("fp32", "bf16", "int8")


def cannot_run(bundle, **how):
    raise BackendUnavailableError("absent: no such device")


class Trials:
    """Stands in for the trial: the times are given, and every call is counted."""

    def __init__(self):
        self.calls, self.failures, self.calm = [], [], True
        self.times = {
            "openvino fp32": 0.25,
            "onnxruntime fp32": 0.5,
            "openvino int8": 0.0625,
            "openvino bf16": 0.03125,
            "onnxruntime int8": 0.125,
        }

    def __call__(self, backends, specification):
        self.calls.append(sorted(backends))
        return Trial({name: self.times.get(name, 1.0) for name in backends}, self.failures, self.calm)


@pytest.fixture
def trial(monkeypatch):
    trial = Trials()
    monkeypatch.setattr("tomoscribe.engine.backends.cpu_choice.run_trial", trial)
    return trial


@pytest.fixture
def backends(monkeypatch):
    """Set the backends of a CPU, on a machine without a GPU."""

    def set_backends(**known):
        for module in ("cpu_choice", "selection"):
            monkeypatch.setattr(f"tomoscribe.engine.backends.{module}.BACKENDS", known)

    monkeypatch.setattr(Fake, "made", [], raising=False)
    monkeypatch.setattr("tomoscribe.engine.backends.cpu_choice.read_processor", lambda: ABLE)
    monkeypatch.setattr("tomoscribe.engine.backends.selection.has_gpu", lambda: False)
    return set_backends


def judged(**changes):
    return {"passed": True, "runtime": "ONNX Runtime 1.31.1, CPU", "others": {}, **changes}


def test_the_fastest_is_taken_and_the_others_are_closed(backends, trial, make_bundle):
    backends(openvino=Swift, onnxruntime=Slow)
    bundle = make_bundle()
    backend, reason = choose_backend("auto", bundle)
    assert type(backend) is Swift
    assert (backend.bundle, backend.precision, backend.streams) == (bundle, "fp32", None)
    assert reason == "openvino fp32, the fastest in a trial: openvino fp32 250.0 ms, onnxruntime fp32 500.0 ms"
    assert [made.closed for made in Fake.made] == [False, True]


def test_with_latency_one_slot_gets_all_the_cores(backends, trial, make_bundle):
    backends(openvino=Swift, onnxruntime=Slow)
    assert choose_backend("auto", make_bundle(), latency=True)[0].streams == 1
    assert [made.streams for made in Fake.made] == [1, 1]


def test_a_second_time_the_trial_is_recalled(backends, trial, trials, make_bundle):
    backends(openvino=Swift, onnxruntime=Slow)
    bundle = make_bundle()
    choose_backend("auto", bundle)
    Fake.made.clear()
    backend, reason = choose_backend("auto", bundle)
    assert type(backend) is Swift
    assert reason.startswith("openvino fp32, the fastest in an earlier trial: openvino fp32 250.0 ms")
    assert len(trial.calls) == 1
    assert Fake.made == [backend], "the others were loaded for nothing"
    ((entry,),) = (json.loads(trials.read_text()).values(),)
    assert entry["facts"]["bundle"] == {"fp32": bundle.artifacts["fp32"].sha256}


def test_another_bundle_machine_version_or_question_is_another_trial(backends, trial, make_bundle, monkeypatch):
    backends(openvino=Swift, onnxruntime=Slow)
    choose_backend("auto", make_bundle())
    choose_backend("auto", make_bundle(), latency=True)
    choose_backend("auto", make_bundle(seed=1))
    choose_backend("auto", make_bundle(), precision="int8")
    monkeypatch.setattr("tomoscribe.engine.backends.cpu_choice.usable_cores", lambda: 99)
    choose_backend("auto", make_bundle())
    monkeypatch.setattr(
        "tomoscribe.engine.backends.cpu_choice.read_processor", lambda: Processor("another", True, True)
    )
    choose_backend("auto", make_bundle())
    monkeypatch.setattr("tomoscribe.engine.backends.cpu_choice.version", lambda package: "99")
    choose_backend("auto", make_bundle())
    assert len(trial.calls) == 7
    choose_backend("auto", make_bundle())
    assert len(trial.calls) == 7


def test_a_winner_that_is_gone_means_another_trial(backends, trial, make_bundle):
    backends(openvino=Swift, onnxruntime=Slow)
    choose_backend("auto", make_bundle())
    backends(openvino=cannot_run, onnxruntime=Slow)
    backend, reason = choose_backend("auto", make_bundle())
    assert type(backend) is Slow
    assert "the only one that can run here" in reason


def test_where_one_can_run_there_is_no_trial_and_the_others_are_told(backends, trial, trials, make_bundle):
    backends(openvino=cannot_run, onnxruntime=Slow)
    backend, reason = choose_backend("auto", make_bundle())
    assert type(backend) is Slow
    assert reason == "onnxruntime fp32, the only one that can run here; absent: no such device"
    assert trial.calls == []
    assert not trials.exists()


def test_one_that_fails_in_the_trial_is_told_and_nothing_is_kept(backends, trial, trials, make_bundle):
    backends(openvino=Swift, onnxruntime=Slow)
    trial.failures = ["onnxruntime: broke"]
    assert choose_backend("auto", make_bundle())[1].endswith("; onnxruntime: broke")
    assert not trials.exists()


def test_a_trial_on_a_busy_machine_is_not_kept(backends, trial, trials, make_bundle):
    backends(openvino=Swift, onnxruntime=Slow)
    trial.calm = False
    backend, reason = choose_backend("auto", make_bundle())
    assert type(backend) is Swift
    assert reason.endswith("onnxruntime fp32 500.0 ms; the machine is busy, the next run tries again")
    assert not trials.exists()


def test_where_all_fail_in_the_trial_all_are_closed(backends, make_bundle, monkeypatch):
    def fail(*_):
        raise BackendError("broke")

    backends(openvino=Swift, onnxruntime=Slow)
    monkeypatch.setattr("tomoscribe.engine.backends.cpu_choice.run_trial", fail)
    with pytest.raises(BackendError, match="broke"):
        choose_backend("auto", make_bundle())
    assert [made.closed for made in Fake.made] == [True, True]


def test_one_that_was_asked_for_runs_or_fails(backends, trial, make_bundle):
    backends(openvino=cannot_run, onnxruntime=Slow)
    backend, reason = choose_backend("onnxruntime", make_bundle(), precision="bf16")
    assert (type(backend), backend.precision) == (Slow, "bf16")
    assert reason == "onnxruntime bf16, as asked for"
    with pytest.raises(BackendUnavailableError, match="absent: no such device"):
        choose_backend("openvino", make_bundle())
    assert trial.calls == []


def test_a_precision_that_was_asked_for_is_had_or_fails(backends, trial, make_bundle):
    backends(openvino=Swift, onnxruntime=Slow)
    backend, reason = choose_backend("auto", make_bundle(), precision="bf16")
    assert (type(backend), backend.precision) == (Slow, "bf16")
    assert reason == "onnxruntime bf16, the only one that can run here; Swift: has no bf16"
    backends(openvino=Swift)
    with pytest.raises(BackendUnavailableError, match="Swift: has no bf16"):
        choose_backend("auto", make_bundle(), precision="bf16")
    # Whoever asks for it is not asked for a verdict.
    backends(openvino=Swift, onnxruntime=Slow)
    assert choose_backend("auto", make_bundle(), precision="int8")[0].precision == "int8"


OPENVINO = "OpenVINO 2026.4, CPU"
PASSED, FAILED = {"passed": True}, {"passed": False}


@pytest.mark.parametrize(
    ("others", "parity", "tried"),
    [
        ((), {}, []),
        (("int8-cpu",), {}, []),
        (("int8-cpu",), {"int8-cpu": judged(passed=False)}, []),
        (("int8-cpu",), {"int8-cpu": judged(passed="yes")}, []),
        (("int8-cpu",), {"int8": judged()}, []),
        (("int8-cpu",), {"int8-cpu": judged()}, ["onnxruntime int8"]),
        (("int8-cpu",), {"int8-cpu": judged(others={OPENVINO: {}})}, ["onnxruntime int8", "openvino int8"]),
        (("int8-cpu",), {"int8-cpu": judged(others={OPENVINO: PASSED})}, ["onnxruntime int8", "openvino int8"]),
        (("int8-cpu",), {"int8-cpu": judged(others={OPENVINO: FAILED})}, ["onnxruntime int8"]),
        (("int8-cpu",), {"int8-cpu": judged(passed=False, others={OPENVINO: PASSED})}, ["openvino int8"]),
        (("int8-cpu",), {"int8-cpu": judged(runtime=OPENVINO)}, ["openvino int8"]),
        (("fp16", "int8", "int8-cpu"), {"fp16": judged(), "int8-cpu": judged()}, ["onnxruntime int8"]),
        ((), {"fp32": judged(others={OPENVINO: PASSED})}, []),
        ((), {"fp32": judged(others={f"{OPENVINO}, BF16": PASSED})}, ["openvino bf16"]),
        ((), {"fp32": judged(others={OPENVINO: PASSED, f"{OPENVINO}, BF16": FAILED})}, []),
    ],
)
def test_a_precision_is_taken_unasked_only_in_a_runtime_that_its_gate_let_it_pass_in(
    backends, trial, make_bundle, others, parity, tried
):
    backends(openvino=OpenVino, onnxruntime=Slow)
    backend, _ = choose_backend("auto", make_bundle(others=others, parity=parity))
    assert trial.calls == [sorted(["onnxruntime fp32", "openvino fp32", *tried])]
    fastest = min(trial.calls[0], key=trial.times.__getitem__)
    assert backend.precision == fastest.split()[1]


def test_fp32_is_not_taken_unasked_where_it_failed_but_passed_elsewhere(backends, trial, make_bundle):
    backends(openvino=Swift, onnxruntime=Slow)
    bundle = make_bundle(parity={"fp32": judged(others={OPENVINO: FAILED})})
    assert choose_backend("auto", bundle)[1] == "onnxruntime fp32, the only one that its parity gate let pass"
    backend, _ = choose_backend("openvino", bundle)
    assert (type(backend), backend.precision) == (Swift, "fp32")
    for others in ({}, {OPENVINO: FAILED}):
        choose_backend("auto", make_bundle(seed=len(others), parity={"fp32": judged(passed=False, others=others)}))
    assert trial.calls == [["onnxruntime fp32", "openvino fp32"]] * 2


def test_what_did_not_pass_its_gate_is_run_with_a_warning(backends, trial, make_bundle):
    backends(openvino=Swift, onnxruntime=Slow)
    bundle = make_bundle(others=["int8-cpu"], parity={"int8-cpu": judged(passed=False, others={OPENVINO: PASSED})})
    warning = "the int8 network of integers did not pass its parity gate in ONNX Runtime"
    assert choose_backend("onnxruntime", bundle, precision="int8")[1].startswith(
        f"onnxruntime int8, as asked for; {warning}"
    )
    assert parity_warning(bundle, "onnxruntime", "int8").startswith(warning)
    assert choose_backend("openvino", bundle, precision="int8")[1] == "openvino int8, as asked for"
    for backend, precision in (("openvino", "int8"), ("onnxruntime", "fp32"), ("openvino", "bf16"), ("other", "auto")):
        assert parity_warning(bundle, backend, precision) is None


def test_a_precision_is_not_taken_unasked_where_the_processor_lacks_it(backends, trial, make_bundle, monkeypatch):
    backends(onnxruntime=Slow)
    bundle = make_bundle(others=["int8-cpu"], parity={"int8-cpu": judged()})
    assert choose_backend("onnxruntime", bundle)[0].precision == "int8"
    monkeypatch.setattr("tomoscribe.engine.backends.cpu_choice.read_processor", lambda: PLAIN)
    assert choose_backend("onnxruntime", bundle)[0].precision == "fp32"
    assert choose_backend("onnxruntime", bundle, precision="int8")[0].precision == "int8"
    backends(openvino=OpenVino)
    bundle = make_bundle(parity={"fp32": judged(others={f"{OPENVINO}, BF16": PASSED})})
    assert choose_backend("openvino", bundle)[0].precision == "fp32"


def test_auto_fails_where_nothing_runs(backends, make_bundle):
    backends(openvino=cannot_run, onnxruntime=cannot_run)
    with pytest.raises(BackendUnavailableError, match=r"^absent: no such device$"):
        choose_backend("auto", make_bundle())


def test_auto_does_not_hide_a_bad_bundle(make_bundle, monkeypatch):
    monkeypatch.setattr("tomoscribe.engine.backends.selection.has_gpu", lambda: False)
    bundle = make_bundle()
    bundle.artifact_path("fp32").write_bytes(b"")
    with pytest.raises(BundleError):
        choose_backend("auto", type(bundle)(bundle.path, bundle.specification, bundle.artifacts))


def test_an_unknown_name_lists_those_that_are_known(make_bundle):
    with pytest.raises(
        ParameterError, match="backend 'cuda': expected one of auto, tensorrt, onnxruntime-cuda, openvino, onnxruntime"
    ):
        choose_backend("cuda", make_bundle())
    with pytest.raises(ParameterError, match="precision 'fp8': expected one of auto, fp32, fp16, bf16, int8"):
        choose_backend("auto", make_bundle(), precision="fp8")


def test_the_cpu_is_always_there(make_bundle):
    assert list(BACKENDS)[-1] == "onnxruntime"
    backend, reason = choose_backend("auto", make_bundle(), device="cpu")
    assert reason.startswith(f"{backend.name} fp32, ")
    backend.close()


def test_importing_the_engine_imports_no_runtime():
    code = (
        "import sys, tomoscribe.engine, tomoscribe.engine.backends, tomoscribe.engine.stream; "
        "print([name for name in ('onnxruntime', 'openvino', 'onnx', 'torch') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
