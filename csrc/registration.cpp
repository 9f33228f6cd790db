// The operators of the extension, and the module that Python imports to register them.
//
// Only the LibTorch stable ABI and the limited Python API are used, so that one binary serves every
// torch >= 2.10 and every Python >= 3.10.
#include <Python.h>

#include <torch/csrc/stable/library.h>

#include "triangle_entry.h"

STABLE_TORCH_LIBRARY(gcp_kernels_cuda, library) {
  library.def("triu_vec(Tensor matrix, bool fold) -> Tensor");
  library.def("triu_unvec(Tensor vector, bool mirror) -> Tensor");
  library.def("device_error(int device) -> str");
}

// For every device, so that a tensor on another one meets the host entry's own error. There is no
// autograd formula here: gcp_kernels.ops differentiates, and calls these below autograd.
STABLE_TORCH_LIBRARY_IMPL(gcp_kernels_cuda, CompositeExplicitAutograd, library) {
  library.impl("triu_vec", TORCH_BOX(&gcp_kernels::triu_vec));
  library.impl("triu_unvec", TORCH_BOX(&gcp_kernels::triu_unvec));
  library.impl("device_error", TORCH_BOX(&gcp_kernels::device_error));
}

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, 0,       nullptr,
                               nullptr,               nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
