// The operators of the extension, and the module that Python imports to register them. Without Python the library
// registers them when it is loaded.
//
// Only the LibTorch stable ABI and the limited Python API are used, so that one binary serves every
// torch >= 2.10 and every Python >= 3.10.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include "covariance_pool/entry.h"
#include "isqrt_pool/entry.h"
#include "isqrt_pool/positions/layout_entry.h"
#include "policy_entry.h"
#include "triangle/entry.h"

// Two builds can be in one process if their operators have different names; torch takes each name once.
#ifndef GCP_KERNELS_LIBRARY
#define GCP_KERNELS_LIBRARY gcp_kernels_cuda
#endif

STABLE_TORCH_LIBRARY(GCP_KERNELS_LIBRARY, library) {
  library.def("triu_vec(Tensor matrix, bool fold) -> Tensor");
  library.def("triu_unvec(Tensor vector, bool mirror) -> Tensor");
  library.def(
      "isqrt_pool(Tensor x, int n_iter, bool triu, int planes, bool positions, Tensor(a!) pooled, Tensor(b!) "
      "centre, Tensor(c!) trace, int? shared_limit=None) -> ()");
  library.def("isqrt_pool_inference(Tensor x, int n_iter, bool triu, int planes, bool positions) -> Tensor");
  library.def(
      "isqrt_pool_backward(Tensor grad, Tensor x, Tensor centre, Tensor trace, int n_iter, bool triu, int planes, bool "
      "positions, Tensor(a!) grad_x, int? shared_limit=None) -> ()");
  library.def(
      "covariance_pool(Tensor x, Tensor? scale, bool triu, int planes, Tensor(a!) pooled, Tensor(b!) centre, int? "
      "shared_limit=None) -> ()");
  library.def("covariance_pool_inference(Tensor x, Tensor? scale, bool triu, int planes) -> Tensor");
  library.def(
      "covariance_pool_backward(Tensor grad, Tensor x, Tensor? scale, Tensor centre, bool triu, Tensor(a!) grad_x, "
      "Tensor(b!)? grad_scale, int? shared_limit=None) -> ()");
  library.def("device_error(int device) -> str");
  library.def("shared_memory_limit(int device) -> int");
  library.def("pooling_layout(int channels, int planes, bool backward, int shared_limit) -> (int, int, int)");
  library.def(
      "positions_pooling_layout(int channels, int positions, int planes, bool backward, int shared_limit) -> (int, "
      "int, "
      "int)");
  library.def("positions_pooling_error(int channels, int positions, int planes, int shared_limit) -> str");
  library.def("pooling_error(int channels, int planes, int shared_limit) -> str");
}

// For every device, so that a tensor on another one meets the host entry's own error. There is no
// autograd formula here: gcp_kernels.ops differentiates, and calls these below autograd.
STABLE_TORCH_LIBRARY_IMPL(GCP_KERNELS_LIBRARY, CompositeExplicitAutograd, library) {
  library.impl("triu_vec", TORCH_BOX(&gcp_kernels::triu_vec));
  library.impl("triu_unvec", TORCH_BOX(&gcp_kernels::triu_unvec));
  library.impl("isqrt_pool", TORCH_BOX(&gcp_kernels::isqrt_pool));
  library.impl("isqrt_pool_inference", TORCH_BOX(&gcp_kernels::isqrt_pool_inference));
  library.impl("isqrt_pool_backward", TORCH_BOX(&gcp_kernels::isqrt_pool_backward));
  library.impl("covariance_pool", TORCH_BOX(&gcp_kernels::covariance_pool));
  library.impl("covariance_pool_inference", TORCH_BOX(&gcp_kernels::covariance_pool_inference));
  library.impl("covariance_pool_backward", TORCH_BOX(&gcp_kernels::covariance_pool_backward));
  library.impl("device_error", TORCH_BOX(&gcp_kernels::device_error));
  library.impl("shared_memory_limit", TORCH_BOX(&gcp_kernels::shared_memory_limit));
  library.impl("pooling_layout", TORCH_BOX(&gcp_kernels::pooling_layout));
  library.impl("positions_pooling_layout", TORCH_BOX(&gcp_kernels::positions_pooling_layout));
  library.impl("positions_pooling_error", TORCH_BOX(&gcp_kernels::positions_pooling_error));
  library.impl("pooling_error", TORCH_BOX(&gcp_kernels::pooling_error));
}

// Weak: in a program without Python, which loads the operators by themselves, nobody asks for the module.
#pragma weak PyModule_Create2

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, 0, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
