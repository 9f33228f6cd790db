// Host entries of triu_vec and triu_unvec; triangle.cuh says what they compute.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <string>

namespace gcp_kernels {

// (B, C, C), any strides -> (B, C(C+1)/2), contiguous.
torch::stable::Tensor triu_vec(const torch::stable::Tensor& matrix, bool fold);

// (B, C(C+1)/2), any strides -> (B, C, C), contiguous.
torch::stable::Tensor triu_unvec(const torch::stable::Tensor& vector, bool mirror);

// Why CUDA device number `device` cannot run these kernels; empty where it can.
std::string device_error(int64_t device);

}  // namespace gcp_kernels
