"""A process that loads the kernel of a folder with the ``kernels`` library, without and beside gcp_kernels.

It takes the folder, a file with features, upstream gradients and what else the test asks for, and the file that it
writes its results to. It runs where no checkout is on the path.
"""

import sys
from importlib import import_module
from pathlib import Path

import torch

folder, asked, written = map(Path, sys.argv[1:])
wanted = torch.load(asked)
if wanted["cuda"] is not None:
    # By this the library chooses the variant.
    torch.version.cuda = wanted["cuda"]

from kernels import (  # noqa: E402
    LocalLayerRepository,
    Mode,
    get_loaded_kernels,
    get_local_kernel,
    kernelize,
    use_kernel_forward_from_hub,
    use_kernel_mapping,
)
from kernels._rust import Digest  # noqa: E402


@use_kernel_forward_from_hub("GCP")
class Pool(torch.nn.Module):
    """A module whose own forward pass is another."""

    def __init__(self):
        super().__init__()
        self.n_iter = 3

    def forward(self, x):
        return x.mean((2, 3))


def pooled(package, **options):
    """Pool and differentiate; return value and gradient."""
    x = wanted["x"].clone().requires_grad_()
    value = package.fused_gcp(x, **options)
    (gradient,) = torch.autograd.grad(value, x, wanted["grad"])
    return value.detach(), gradient


def extension_of(package):
    """Say why the package's extension cannot be loaded, and what its operators know."""
    extension = import_module(f"{package}.ops.cuda_device.extension")
    reason = extension.why_not_loaded()
    library = None if reason else extension.operators("isqrt_pool")
    return reason, library and library.pooling_error(64, 2, 0)


def installed():
    """Import gcp_kernels from the checkout, as an installed one would be."""
    sys.modules.pop("gcp_kernels", None)
    sys.path.insert(0, wanted["checkout"])
    import gcp_kernels

    return gcp_kernels


found = {}
if wanted["installed_first"]:
    # As a program does that wants the operators alone; the package takes what is there.
    torch.ops.load_library(Path(wanted["checkout"], "gcp_kernels", "_C.abi3.so"))
    found["installed"] = pooled(installed())
    found["extension of installed"] = extension_of("gcp_kernels")
else:
    # Whatever imports it by this name fails.
    sys.modules["gcp_kernels"] = None
kernel = get_local_kernel(folder)
(loaded,) = get_loaded_kernels()
variant = Path(kernel.__file__).parent
loaded.metadata.digest.validate(Digest.hash_variant(loaded.metadata.digest.algorithm, variant))
found |= {
    "variant": variant.name,
    "name": kernel.__name__,
    "id": loaded.metadata.id,
    "version": kernel.__version__,
    "public": sorted(kernel.__all__),
    "kernel": pooled(kernel, backend="torch"),
    "operators": dir(getattr(torch.ops, kernel.__name__)),
}
if wanted["triton"]:
    found["kernel in Triton"] = pooled(kernel, backend="triton")
if wanted["layer"]:
    layer = LocalLayerRepository(folder, layer_name="GCP")
    with use_kernel_mapping({"GCP": {"cpu": layer}}):
        model = kernelize(Pool(), mode=Mode.TRAINING | Mode.TORCH_COMPILE, device="cpu")
    found["layer"] = model(wanted["x"])
    found["compiled layer"] = torch.compile(model, backend="aot_eager", fullgraph=True)(wanted["x"])
found["extension of kernel"] = extension_of(f"{kernel.__name__}.gcp_kernels")
if not wanted["installed_first"]:
    found["installed"] = pooled(installed())
    found["extension of installed"] = extension_of("gcp_kernels")
torch.save(found, written)
