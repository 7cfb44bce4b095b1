// A checkpoint whose experts were pruned, merged or made one block, or whose tensors have new values, written as the
// original is: names, types, layouts, shards and all files beside the weights.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/changed_model.h"
#include "loaders/families/family.h"
#include "loaders/model/checkpoint.h"
#include "loaders/model/files.h"

namespace signalbox::loaders {

class Rewrite {
 public:
  // The original: its files, its model_type, and the model as it was loaded. `adapted`: its tensors whose values the
  // files do not have, as adapters were merged; of a ChangedModel they are new whatever that says. Throws Error as
  // loading does.
  Rewrite(std::shared_ptr<const ModelFiles> files, const std::string& model_type, const Model& model,
          std::vector<TensorId> adapted = {});

  // The adapted tensors as they will be stored, so that what is measured is what is written: of `weights` [host] of the
  // original. Throws Error for values that their dtype cannot hold, and for MXFP4.
  void store_adapted(Weights& weights) const;

  // How the original stores a tensor. Those that a ChangedModel replaces must be of it: matrices in this dtype, vectors
  // of values that it can hold.
  DType stored_dtype(const TensorId& id) const;

  // The model with one feed-forward block of `width` neurons, or of as many as its dense layers have where these are
  // more, in the place of each layer's experts: what a ChangedModel of such blocks must be (config.json as the family
  // says it, loaders/families/family.h). Its blocks are new tensors: matrices in block_dtype().
  Model with_one_block(int64_t width) const;
  DType block_dtype() const;  // that of the original's experts; of quantised ones BF16

  struct Sizes {
    int64_t bytes = 0;         // of tensors, those that several experts share counted once
    int64_t stored_bytes = 0;  // of the weight files, where they stand as often as there are experts
  };
  Sizes original_sizes() const;
  Sizes sizes(const ChangedModel& changed) const;  // what write() would write

  // Writes a directory that must not exist yet: it gets its name when it is whole. Tensors of the original that are not
  // of the model (LoadedModel::unknown_tensors) are left out. `progress` is called with bytes written and bytes in all.
  // Throws Error, also for a new value that the stored dtype cannot hold.
  void write(const ChangedModel& changed, const std::filesystem::path& directory,
             const std::function<void(uint64_t, uint64_t)>& progress = {}) const;

 private:
  struct Place;
  struct OutTensor;
  struct OutFile;
  Place find(const TensorId& id) const;
  bool is_remade(const ChangedModel& changed, const TensorId& id) const;
  families::Source place_of_block(const TensorId& id, Place& like) const;
  json::Value config_of(const ChangedModel& changed) const;
  std::vector<OutTensor> tensors(const ChangedModel& changed, Weights& views) const;
  std::vector<OutFile> files(std::vector<OutTensor> tensors) const;

  std::shared_ptr<const ModelFiles> files_;
  const families::Family* family_;
  Model original_;
  std::vector<TensorId> adapted_;
  Checkpoint checkpoint_;
  json::Value config_;
};

}  // namespace signalbox::loaders
