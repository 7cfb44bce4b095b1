// A planted induction circuit: a head that attends to the previous token and copies its code, and one that attends to
// where the code of its own token was copied, and writes the code of the token there to the logits.
//
// The first head's queries and keys are constant on the m fastest rotary pairs, the keys turned by one position, so
// that its logit at distance D is A / m * sum_p cos((D - 1) w_p): A at D = 1, and below A * (1 - margin) elsewhere. The
// second head compares codes, words of n signs, on the slowest pairs, which hardly turn within `reach`.
#pragma once
#include <cstdint>
#include <vector>

#include "base/namespaces.h"
#include "loaders/synthetic/circuit_spec.h"
#include "loaders/synthetic/reserved.h"

namespace signalbox::loaders::synthetic {

class Induction {
 public:
  // Takes three reserved dimensions for each sign of a code. `random_size`: of the random queries and keys beside the
  // heads (init.matrix). Throws Error beginning with the circuit's place when the heads cannot be built.
  Induction(const CircuitSpec& circuit, const Model& model, double random_size, Reserved& reserved);

  // Overwrites rows first .. first + n of a tensor. `values` [n, cols].
  void apply(const TensorPlace& slot, int64_t first, int64_t n, float* values) const;
  json::Value truth() const;

 private:
  // One planted head: which coordinates of its queries and keys are used, what they read and how large that is.
  struct Head {
    HeadSite site;
    int64_t kv_head = 0;
    double amplitude = 0;          // of its logit at the best key
    double margin = 0;             // share of it that any other key lacks
    int64_t reach = 0;             // tokens over which that holds
    std::vector<int64_t> pairs;    // rotary pairs
    std::vector<int64_t> queries;  // coordinates in use, and the dimension that each reads
    std::vector<int64_t> query_reads, keys, key_reads;
    std::vector<double> key_sizes;  // what a key's row reads its dimension with, before gain
    double query_size = 1;          // the same of the query
    int64_t writes = 0;             // first of the n dimensions it writes
    double write_size = 0;
  };
  const Gqa& attention(const Head& head) const;
  void plan_previous(Head& head);
  void plan_match(Head& head);
  void check(const Head& head, const char* name) const;
  double size_of(const Head& head) const;
  double norm_weight(const Head& head, int64_t width) const;
  void apply_head(const Head& head, const TensorPlace& slot, int64_t first, int64_t n, float* values) const;
  void code_rows(int64_t first, int64_t n, int64_t cols, int64_t dim, double size, bool alone, float* values) const;
  std::vector<int> code(size_t index) const;  // [n_] signs of a coded token

  const CircuitSpec& circuit_;
  const Model& model_;
  const Reserved& reserved_;
  double random_size_ = 1;
  int64_t n_ = 8, least_distance_ = 1;       // signs of a code, signs in which two differ at least
  int64_t own_ = 0, before_ = 0, next_ = 0;  // first dimensions of the three codes
  Head previous_, match_;
};

}  // namespace signalbox::loaders::synthetic
