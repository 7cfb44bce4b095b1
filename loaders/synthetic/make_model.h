// Synthetic checkpoints: any family at any size, random, or with planted experts whose routing is known by
// construction. The spec and the construction are described in docs/make-model.md.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::loaders::synthetic {

// Of a synthetic model's directory: the spec that it is made from and the truth of its circuits, there before any other
// file.
inline constexpr const char* spec_file = "make-model.json";

struct Summary {
  std::string family;
  int64_t parameters = 0;
  uint64_t bytes = 0;  // of the weight files
  int files = 0;
  size_t planted = 0, circuits = 0;
};

// Writes config.json, generation_config.json, the weights, planted.json where experts are planted, circuit-N.jsonl for
// each circuit, tokenizer files where asked for, and the spec itself, into `directory` (created if need be; what an
// earlier make_model left there goes). config.json comes last: a directory without it is no model. The same spec gives
// the same bytes everywhere. `progress` is called with bytes written and bytes in all. Throws Error naming the spec's
// key.
Summary make_model(const json::Value& spec, const std::string& where, const std::filesystem::path& directory,
                   const std::function<void(uint64_t, uint64_t)>& progress = {});

}  // namespace signalbox::loaders::synthetic
