// A dense model of Llama layout in a GGUF file: sizes from its keys, tensors by role.
#pragma once
#include <memory>
#include <span>

#include "base/namespaces.h"
#include "engine/weights.h"
#include "loaders/families/upcycled.h"
#include "loaders/gguf/gguf_file.h"

namespace signalbox::loaders::gguf {

class DenseModel {
 public:
  // Throws Error naming file and key or tensor: another architecture, experts, keys of the architecture that may change
  // what is computed and are not known here, tensors that are missing, of another shape or of a type that cannot be
  // read, and tensors that nothing asks for.
  explicit DenseModel(std::shared_ptr<const File> file);

  const File& file() const { return *file_; }
  const families::DenseShape& shape() const { return shape_; }

  // A tensor's values as a checkpoint in Hugging Face layout has them; zero for the attention biases, which the file
  // does not have. GGUF keeps the rows of q and k in another order (dimensions i and i + d_head / 2 of a head side by
  // side): undone.
  void values(const TensorPlace& place, std::span<float> out) const;

 private:
  const TensorInfo& tensor(Role role, int32_t layer) const;
  void check_tensors() const;
  std::shared_ptr<const File> file_;
  families::DenseShape shape_;
};

}  // namespace signalbox::loaders::gguf
