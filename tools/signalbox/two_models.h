// What similarity and transplant share: two opened models, how their bases are aligned, and which layers go together.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "loaders/model/load.h"
#include "tools/signalbox/open.h"
#include "train/expert_similarity.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace signalbox::tools {

using namespace train;

// A model ready to run, and its weights in host memory.
struct OpenedModel {
  OpenedModel(const CommonOptions& options, const std::string& model);
  const Weights& host() const { return shared ? session.weights : loaded.weights; }
  ModelSide side() const { return {&session, &host()}; }

  ResolvedModel resolved;
  Session session;
  bool shared = true;  // the device reads the weights where they lie in host memory
  LoadedModel loaded;  // where it does not
};

struct BasisFlags {
  std::string align = basis_names[0];
  double ridge = 0.01;
  Basis basis() const;
  // Throws UsageError for a --ridge that changes nothing.
  void check(bool ridge_given) const;
};
CLI::Option* add_basis_options(CLI::App& app, BasisFlags& flags);

// "same": layers of one index that have a router in both. "every": each such layer of a with each of b. Else items "3",
// "3-5" (the same of both) and "3:7" (of a and of b), separated by commas. Throws UsageError.
std::vector<std::pair<int32_t, int32_t>> layer_pairs(const std::string& text, const ModelShape& a, const ModelShape& b);

// [record] a label of the example that it belongs to (independent_examples).
std::vector<int64_t> example_labels(const std::vector<Record>& records);

// {"model", "model_hash"} and the like of both, with what decided the result.
json::Value about_two(const CommonOptions& options, const std::string& schema, const OpenedModel& a, const char* name_a,
                      const OpenedModel& b, const char* name_b, int argc, char** argv);

}  // namespace signalbox::tools
