#include "loaders/model/checkpoint.h"

#include <map>
#include <string_view>
#include <unordered_map>

#include "base/text.h"

namespace signalbox::loaders {

namespace {

constexpr const char* single_name = "model.safetensors";
constexpr const char* index_name = "model.safetensors.index.json";

bool inside_directory(const std::string& name) {
  return !name.empty() && name != "." && name.find("..") == std::string::npos && name.find('/') == std::string::npos;
}

}  // namespace

Checkpoint Checkpoint::open(const ModelFiles& files) {
  Checkpoint checkpoint;
  if (files.has(single_name)) {
    checkpoint.index_ = files.where(single_name);
    checkpoint.files_.push_back(files.open(single_name));
    const safetensors::File& file = *checkpoint.files_.back();
    for (const safetensors::TensorInfo& info : file.tensors())
      checkpoint.tensors_.emplace(info.name, Tensor{&file, &info});
    return checkpoint;
  }
  if (!files.has(index_name)) {
    std::string found = "none";
    for (const char* other : {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.safetensors"})
      if (files.has(other)) found = std::string(other) + ", which is not read";
    throw Error(files.where(single_name), std::string("expected this file or ") + index_name + ", found " + found);
  }

  checkpoint.index_ = files.where(index_name);
  const json::Value root = files.read_json(index_name);
  const json::Ref index(root, checkpoint.index_);
  const auto map = index.at("weight_map").members();
  if (map.empty()) index.at("weight_map").fail("expected at least one tensor, found none");
  std::map<std::string, size_t> shards;  // in the order of their names
  std::unordered_map<std::string_view, std::string_view> shard_of;
  for (const auto& [tensor, file] : map) {
    const std::string& name = file.string();
    if (!inside_directory(name)) file.fail("expected a file name without '/' and \"..\", found " + in_quotes(name));
    shards.emplace(name, 0);
    shard_of.emplace(tensor, name);
  }
  for (auto& [name, position] : shards) {
    if (!files.has(name))
      throw Error(files.where(name), "expected a file as " + checkpoint.index_ + " says, found none");
    position = checkpoint.files_.size();
    checkpoint.files_.push_back(files.open(name));
    const safetensors::File& file = *checkpoint.files_.back();
    for (const safetensors::TensorInfo& info : file.tensors()) {
      // The index decides: a copy in another file than the one that it names (an edited checkpoint keeps its old
      // shards) is not part of the model.
      const auto listed = shard_of.find(info.name);
      if (listed != shard_of.end() && listed->second != name) continue;
      auto [place, added] = checkpoint.tensors_.emplace(info.name, Tensor{&file, &info});
      if (!added)
        throw Error(file.name(), "tensor " + in_quotes(info.name) + ": expected it in one file, found it in " +
                                     place->second.file->name() + ", too");
    }
  }
  // metadata.total_size is a remark that some writers get wrong (sizes of files, of another type): whether all tensors
  // are there and whole is checked on the files themselves.
  for (const auto& [tensor, file] : map) {
    const Tensor found = checkpoint.find(tensor);
    const safetensors::File* expected = checkpoint.files_[shards.at(file.string())].get();
    if (!found || found.file != expected)
      throw Error(expected->name(), "expected the tensor " + in_quotes(tensor) + " as " + checkpoint.index_ +
                                        " says, found " + (found ? "it in " + found.file->name() : "none"));
  }
  return checkpoint;
}

Checkpoint::Tensor Checkpoint::find(std::string_view name) const {
  auto found = tensors_.find(name);
  return found == tensors_.end() ? Tensor() : found->second;
}

}  // namespace signalbox::loaders
