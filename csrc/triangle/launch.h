// What launch.cu offers the host entries: launches on raw pointers. No torch header, no kernel.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "device/element.h"

namespace gcp_kernels {

// Enqueues on `stream` of the current device, never synchronises, and returns the launch's own error.
// Strides count elements. `batch` and `channels` are at least 1.

// matrix: (batch, channels, channels) of any strides; vector: (batch, channels(channels+1)/2) contiguous.
cudaError_t triu_vec_launch(Element element, const void* matrix, std::int64_t batch_stride, std::int64_t row_stride,
                            std::int64_t column_stride, void* vector, std::int64_t batch, std::int32_t channels,
                            bool fold, cudaStream_t stream);

// vector: (batch, channels(channels+1)/2) of any strides; matrix: (batch, channels, channels) contiguous.
cudaError_t triu_unvec_launch(Element element, const void* vector, std::int64_t batch_stride,
                              std::int64_t element_stride, void* matrix, std::int64_t batch, std::int32_t channels,
                              bool mirror, cudaStream_t stream);

// cudaSuccess where the current device can run these kernels: the driver is recent enough, and this binary holds
// machine code, or PTX, for the device.
cudaError_t triangle_probe();

}  // namespace gcp_kernels
