// Values that edits find in memory: an edit list names them memory:NAME where it would name a file.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "probes/activation_store.h"

namespace signalbox::probes {

// Recordings serve "trace" of a replay, "from" of a patch and "mean_of" of an ablation; vectors serve "vector" of an
// addition and "value" of an ablation. Given to EditPlan::parse; plans keep what they use.
class EditMemory {
 public:
  struct Vector {
    std::vector<int64_t> shape;  // [width], or [n_experts, width] at points with a row per slot
    std::vector<float> values;
  };
  // Under the store's name. Throws Error when the store still records, or the name is taken.
  void add(std::shared_ptr<const ActivationStore> store);
  // Throws Error when the shape does not tell as many values, a value is not finite, or the name is taken.
  void add(const std::string& name, Vector vector);

  // Null: there is none of this name.
  std::shared_ptr<const Recording> recording(std::string_view name) const;
  const Vector* vector(std::string_view name) const;
  // "a, b" or "none", for messages.
  std::string recording_names() const;
  std::string vector_names() const;

 private:
  void require_new(const std::string& name) const;
  std::map<std::string, std::shared_ptr<const ActivationStore>, std::less<>> recordings_;
  std::map<std::string, Vector, std::less<>> vectors_;
};

}  // namespace signalbox::probes
