// Any bytes either open as a file whose tensors lie inside it, or are refused with an Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "base/error.h"
#include "base/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace signalbox;
  try {
    const auto file = safetensors::File::from_memory("fuzz", std::as_bytes(std::span(data, size)));
    uint64_t total = 0;
    unsigned sum = 0;  // reads every byte of every tensor
    for (const safetensors::TensorInfo& tensor : file->tensors()) {
      if (file->find(tensor.name) != &tensor) std::abort();
      if (tensor.begin != total) std::abort();
      total += tensor.bytes;
      for (uint64_t i = 0; i < tensor.bytes; ++i) sum ^= static_cast<unsigned>(file->data(tensor)[i]);
    }
    if (total != file->data_bytes() || sum > 255) std::abort();
  } catch (const Error&) {
  }
  return 0;
}
