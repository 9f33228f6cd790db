#include "current_stream.h"

#include <dlfcn.h>

// Only the CUDA builds of torch define this. Declared weak, so that one binary also imports under a CPU build; there it
// is null. In a CUDA build the loader finds it through libtorch.so, which brings in libtorch_cuda.so.
extern "C" __attribute__((weak)) std::int32_t aoti_torch_get_current_cuda_stream(std::int32_t device_index,
                                                                                 void** ret_stream);

namespace gcp_kernels {
namespace {

constexpr const char* kName = "aoti_torch_get_current_cuda_stream";

// A build whose libtorch.so does not bring it in may have it all the same: for the whole process, or for itself alone.
CurrentStream look_up() {
  if (aoti_torch_get_current_cuda_stream != nullptr) return aoti_torch_get_current_cuda_stream;
  void* found = dlsym(RTLD_DEFAULT, kName);
  if (found == nullptr) {
    // Never loads it. The handle is kept, since what is found in it is kept.
    if (void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD)) found = dlsym(library, kName);
  }
  return reinterpret_cast<CurrentStream>(found);
}

}  // namespace

CurrentStream find_current_stream() {
  static const CurrentStream found = look_up();
  return found;
}

}  // namespace gcp_kernels
