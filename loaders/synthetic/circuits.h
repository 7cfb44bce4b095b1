// Planted circuits: causal structures whose every node and edge is known because it was built in. Which kinds there are
// and how each works: docs/make-model.md.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "loaders/synthetic/gates.h"
#include "loaders/synthetic/induction.h"
#include "loaders/synthetic/planted_direction.h"
#include "loaders/synthetic/reserved.h"
#include "loaders/synthetic/spec.h"

namespace signalbox::loaders::synthetic {

class Circuits {
 public:
  // Error naming the entry when a circuit cannot be built into this model. Both arguments must outlive it.
  Circuits(const Spec& spec, Reserved& reserved);
  bool empty() const { return spec_.circuits.empty(); }

  // Whose random part a token's embedding has: that of its pair's first token, else its own.
  int64_t drawn_as(int64_t token) const;

  // Overwrites rows first .. first + n of a tensor. `values` [n, cols].
  void apply(const TensorPlace& slot, int64_t first, int64_t n, float* values) const;

  // The truth: a list with an object for each circuit. `records_file(i)` is the name of its records.
  json::Value truth() const;
  static std::string records_file(size_t circuit) { return "circuit-" + std::to_string(circuit) + ".jsonl"; }
  // Pairs of records on which the circuit tells the two apart, as JSON lines.
  std::string records(size_t circuit) const;

 private:
  struct Built {
    int64_t mark = -1;             // the flag in the embeddings
    std::vector<int64_t> flags;    // that experts write for experts
    std::vector<int64_t> answers;  // flags that the head reads
    double answer_size = flag_size;
    std::unique_ptr<Induction> induction;
    DirectionParts direction;  // of a direction
  };
  void build(size_t circuit);
  void check_tokens() const;
  void check_heads() const;
  json::Value expert_truth(size_t circuit) const;
  void apply_embed(int64_t first, int64_t n, int64_t cols, float* values) const;
  void apply_silence(const TensorPlace& slot, int64_t n, float* values) const;
  void apply_head(int64_t first, int64_t n, int64_t cols, float* values) const;

  const Spec& spec_;
  Reserved& reserved_;
  Gates gates_;
  std::vector<Built> built_;
};

}  // namespace signalbox::loaders::synthetic
