// Host entries that say how much shared memory there is and what a sample takes of it, and the layout of a launch.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include "policy.h"

namespace gcp_kernels {

// Bytes of shared memory that a block may use on CUDA device number `device`.
int64_t shared_memory_limit(int64_t device);

// Of a pass of iSQRT-COV pooling, where a block may use so many bytes of shared memory: matrices that stay there, all
// matrices, and the bytes that a block then takes.
std::tuple<int64_t, int64_t, int64_t> pooling_layout(int64_t channels, int64_t planes, bool backward,
                                                     int64_t shared_limit);

// Why the kernels of these do not fit in so many bytes of shared memory; empty where they do.
std::string pooling_error(int64_t channels, int64_t planes, int64_t shared_limit);

// `planes` where it is 1, "fast", or 2, "high".
int checked_planes(int64_t planes, const char* operation);

// Bytes of shared memory that a block may use on the device of x: `shared_limit`, which only tests set, so that more
// matrices are streamed; without it, what the GPU has.
int64_t shared_limit_on(const torch::stable::Tensor& x, std::optional<int64_t> shared_limit, const char* operation);

// The layout of a pass for the device of x. Whatever the limit, results are bitwise equal.
Layout layout_on(const torch::stable::Tensor& x, int planes, Pass pass, std::optional<int64_t> shared_limit,
                 const char* operation);

// An attribute of a device, as a number.
int device_attribute(cudaDeviceAttr attribute, int32_t device, const char* operation);

}  // namespace gcp_kernels
