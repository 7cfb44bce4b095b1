// The spec of a synthetic model, read and checked.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "loaders/families/family.h"
#include "loaders/synthetic/circuit_spec.h"

namespace signalbox::loaders::synthetic {

enum class Storage : uint8_t { f32, bf16, f16, mxfp4 };  // mxfp4: the experts; the rest is bf16

// Standard deviations of what is drawn. Matrices are scaled by 1 / sqrt(fan in), so that 1 keeps a unit variance.
struct Init {
  double embed = 1, matrix = 1, output = 0, router = 1, head = 1, norm = 0.1, bias = 0.1;
};

// An expert that fires by construction.
struct Plant {
  int32_t layer = 0, expert = 0;
  std::vector<int32_t> tokens;     // the class: its tokens themselves ...
  bool from_begin = false;         // ... or every token from the first one of the class on
  double rate = 1, otherwise = 0;  // share of tokens in and out of the condition that select the expert
};

struct Spec {
  const families::Family* family = nullptr;
  Model model;
  json::Value config;  // as it will be written
  Storage storage = Storage::bf16;
  bool fused = false;
  int shards = 1;
  uint64_t seed = 0;
  bool tokenizer = false;
  Init init;
  std::vector<Plant> plants;
  std::vector<CircuitSpec> circuits;
  json::Value truth;  // what the spec itself says that the truth is; null: nothing
};

Spec read_spec(const json::Value& spec, const std::string& where);

}  // namespace signalbox::loaders::synthetic
