// Any bytes either open as a GGUF file whose tensors lie inside it, or are refused with an Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "base/error.h"
#include "loaders/gguf/dense_model.h"
#include "loaders/gguf/gguf_file.h"
#include "loaders/gguf/tokenizer_files.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace signalbox;
  try {
    const auto file = loaders::gguf::File::from_memory("fuzz", std::as_bytes(std::span(data, size)));
    for (const auto& tensor : file->tensors()) {
      if (file->find(tensor.name) != &tensor) std::abort();
      if (tensor.bytes > size || tensor.begin > size - tensor.bytes) std::abort();
      // Reads every byte of every tensor.
      if (loaders::gguf::known_type(tensor.type) &&
          static_cast<int64_t>(file->dequantise(tensor).size()) != tensor.elements())
        std::abort();
    }
    const loaders::gguf::DenseModel model(file);
    loaders::gguf::tokenizer_texts(*file, model.shape().n_vocab);
  } catch (const Error&) {
  }
  return 0;
}
