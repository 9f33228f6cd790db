// The element types of tensors that kernels take.
#pragma once

namespace gcp_kernels {

enum class Element { kFloat16, kBFloat16, kFloat32, kFloat64 };

}  // namespace gcp_kernels
