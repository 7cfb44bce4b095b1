// Any bytes either open as a file whose tensors lie inside it, or are refused with an Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "loaders/safetensors/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace signalbox;
  try {
    const auto file = safetensors::File::from_memory("fuzz", std::as_bytes(std::span(data, size)));
    uint64_t total = 0;
    for (const safetensors::TensorInfo& tensor : file->tensors()) {
      if (file->find(tensor.name) != &tensor) std::abort();
      if (tensor.begin != total) std::abort();
      total += tensor.bytes;
      uint8_t sum = 0;
      for (uint64_t i = 0; i < tensor.bytes; ++i) sum ^= static_cast<uint8_t>(file->data(tensor)[i]);
      static volatile uint8_t sink;
      sink = sum;
    }
    if (total != file->data_bytes()) std::abort();
  } catch (const Error&) {
  }
  return 0;
}
