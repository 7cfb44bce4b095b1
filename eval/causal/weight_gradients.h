// Gradients of weights over the records of a command: which are wanted, their sums, and the file of them.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "engine/weight_slopes.h"

namespace signalbox::eval {

inline constexpr const char* weight_gradients_file = "weights.safetensors";

struct WantedWeight {
  engine::TensorId id;
  int64_t rows = 0, cols = 0;  // a vector has rows = 1
  bool vector = false;
};

// The model's weights that `globs` (with commas) name: full names ("layer.3.router", engine/weight_slopes.h), or names
// without the layer. Throws Error, beginning with "--weights": a glob that names none, one of a weight that has no
// gradient, one that is stored quantised.
std::vector<WantedWeight> wanted_weights(std::string_view globs, const engine::Session& session);

// Sums over all runs, in memory of the device: 4 bytes for each number of the weights.
class WeightGradients : public engine::WeightSlopes {
 public:
  WeightGradients(const engine::Session& session, std::vector<WantedWeight> wanted);
  engine::Tensor sum(const engine::TensorId& id) override;
  size_t bytes() const { return bytes_; }
  // The sums as they are after so many records, kept in a file and taken up again: read_sums() gives that number, 0
  // where there is no such file. Throws Error for a file of other weights.
  void keep_sums(const std::filesystem::path& file, int64_t records) const;
  int64_t read_sums(const std::filesystem::path& file);
  // DIR/weights.safetensors: grad.weight.NAME F32, each number times `factor`.
  void write(const std::filesystem::path& dir, double factor) const;

 private:
  struct Sum {
    WantedWeight of;
    std::shared_ptr<void> memory;
  };
  const engine::Session& session_;
  std::vector<Sum> sums_;
  std::map<std::string, size_t> index_;
  std::shared_ptr<void> tied_head_;  // of tied embeddings: the head's part
  size_t bytes_ = 0;
};

}  // namespace signalbox::eval
