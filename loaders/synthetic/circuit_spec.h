// The entries of a spec's `circuits`, read and checked for themselves; what a model can hold is checked where they are
// built. docs/make-model.md tells the kinds.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/model.h"

namespace signalbox::loaders::synthetic {

struct ExpertSite {
  int32_t layer = 0, expert = 0;
};

struct HeadSite {
  int32_t layer = 0, head = 0;
};

struct CircuitSpec {
  enum class Kind : uint8_t { route, content, mixed, either, direction, induction };
  Kind kind = Kind::route;
  std::string where;                                // "spec.json: circuits[0]", for messages
  std::vector<std::pair<int32_t, int32_t>> tokens;  // [on, off]: alike but for the mark
  int32_t answer = -1, foil = -1;
  // route, content: source first. mixed: source first, then `other` hangs on the same source. either: the two sources,
  // and the reader in `other`. direction: one.
  std::vector<ExpertSite> experts, other;
  std::pair<int32_t, int32_t> swap{-1, -1};  // direction: experts of the next layer with a router, off and on
  double content = 0, router = 0;            // direction: lengths of its two parts
  HeadSite previous, match;                  // induction
  std::vector<int32_t> coded;                // induction: tokens that it tells apart
  int64_t n_records = 16, length = 12;       // pairs of records beside the model, tokens of each
};

const char* kind_name(CircuitSpec::Kind kind);

std::vector<CircuitSpec> read_circuits(const json::Ref& list, const Model& model);

}  // namespace signalbox::loaders::synthetic
