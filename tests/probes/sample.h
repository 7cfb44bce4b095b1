// A model shape and helpers that the tests of probes share.
#pragma once
#include <doctest/doctest.h>

#include <memory>
#include <string>

#include "probes/edits.h"
#include "probes/points.h"
#include "probes/shape.h"

namespace signalbox::test {

// Six layers with 4 query heads over 2 key heads: 0 dense, 1 to 4 with 8 experts of which 2 are active, 5 the same
// without a shared expert.
inline ModelShape sample_shape() {
  ModelShape shape;
  shape.d_model = 4;
  shape.n_vocab = 11;
  shape.layers.resize(6);
  shape.layers[0].d_ff = 10;
  for (int32_t l = 1; l < 6; ++l) shape.layers[l] = {true, 8, 2, 3, l != 5};
  for (LayerShape& layer : shape.layers) layer.attention = {4, 2, 3, 5, 6};
  return shape;
}

// An edit list written as JSON with ' for ", read as the file "E.json".
inline std::shared_ptr<const EditPlan> plan_of(std::string text, const std::filesystem::path& base_dir = ".",
                                               const ModelShape& shape = sample_shape(), uint64_t seed = 1) {
  for (char& c : text)
    if (c == '\'') c = '"';
  const json::Value value = json::parse(text, "E.json");
  return EditPlan::parse(json::Ref(value, "E.json"), base_dir, shape, seed);
}

// The message of the Error that `run` throws, or "no error".
template <class Run>
std::string error_of(Run run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

inline std::string plan_error(const std::string& text, const std::filesystem::path& base_dir = ".",
                              const ModelShape& shape = sample_shape()) {
  return error_of([&] { plan_of(text, base_dir, shape); });
}

inline SequenceInfo sequence_of(int64_t n_given, const std::string& record = "r") {
  SequenceInfo sequence;
  sequence.record = record;
  sequence.n_given = n_given;
  return sequence;
}

// "1101": which positions from 0 on an edit acts.
inline std::string acting(const BoundEdits& bound, int64_t n_positions, int32_t edit = 0) {
  std::vector<uint8_t> active(static_cast<size_t>(bound.plan().n_edits()));
  std::string text;
  for (int64_t p = 0; p < n_positions; ++p) {
    bound.active(p, active.data());
    text += active[static_cast<size_t>(edit)] ? '1' : '0';
  }
  return text;
}

}  // namespace signalbox::test
