// The tuned lens' affine translators: what a layer's stream is taken for before the final norm and the head read it.
//
//   h + A_l h + b_l, A_l [d_model, d_model], b_l [d_model]
//
// trained so that the readings come near to the model's own predictions (Belrose et al. 2023, arXiv 2303.08112). The
// last layer has none: its readings are the model's own.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "base/thread_pool.h"

namespace signalbox::eval {

inline constexpr const char* translators_schema = "signalbox.tuned-lens/1";  // metadata "schema"
// Names of the tensors F32 [d_model, d_model] and [d_model]: of A_l and b_l.
std::string translator_weight(int32_t layer);
std::string translator_bias(int32_t layer);

class Translators {
 public:
  // Throws Error naming the file: another schema, tensors that are missing, of other shapes, not finite, or of no layer
  // below the last.
  static Translators read(const std::filesystem::path& file, int64_t n_layers, int64_t d_model);

  bool has(int32_t layer) const { return layers_.count(layer) > 0; }
  std::vector<int32_t> layers() const;
  // Hashes of the weights that they were trained for, as JSON (metadata "model").
  const std::string& model() const { return model_; }

  // streams [rows, d_model] in place; sums in double.
  void apply(int32_t layer, std::span<float> streams, ThreadPool& pool) const;

 private:
  struct Affine {
    std::vector<float> weight, bias;
  };
  int64_t d_ = 0;
  std::string model_;
  std::map<int32_t, Affine> layers_;
};

}  // namespace signalbox::eval
