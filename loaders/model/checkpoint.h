// The tensors of a model's weight files by name: one model.safetensors, or shards with an index.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/namespaces.h"
#include "loaders/model/files.h"

namespace signalbox::loaders {

class Checkpoint {
 public:
  // Opens model.safetensors, or the shards of model.safetensors.index.json. Checks of the index: names of files stay in
  // the directory; every file exists and holds the tensors that weight_map puts there; no tensor lies in two files;
  // total_size, where it is given, is the sum of the tensors' bytes. Throws Error naming file and tensor.
  static Checkpoint open(const ModelFiles& files);

  struct Tensor {
    const safetensors::File* file = nullptr;
    const safetensors::TensorInfo* info = nullptr;
    const std::byte* data() const { return file->data(*info); }
    std::string where() const { return file->name() + ": tensor \"" + info->name + "\""; }
    explicit operator bool() const { return info != nullptr; }
  };
  Tensor find(std::string_view name) const;  // empty if there is none
  const std::vector<std::shared_ptr<const safetensors::File>>& files() const { return files_; }
  const std::string& index() const { return index_; }  // the file that a missing tensor is missing from

 private:
  std::vector<std::shared_ptr<const safetensors::File>> files_;
  std::unordered_map<std::string_view, Tensor> tensors_;
  std::string index_;
};

}  // namespace signalbox::loaders
