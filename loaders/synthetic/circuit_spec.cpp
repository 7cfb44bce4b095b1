#include "loaders/synthetic/circuit_spec.h"

#include <algorithm>
#include <set>

#include "base/near_names.h"

namespace signalbox::loaders::synthetic {

namespace {

using Kind = CircuitSpec::Kind;

struct NamedKind {
  const char* name;
  Kind kind;
};
constexpr NamedKind kinds[] = {{"route", Kind::route}, {"content", Kind::content},     {"mixed", Kind::mixed},
                               {"or", Kind::either},   {"direction", Kind::direction}, {"induction", Kind::induction}};

std::string layer_text(int32_t layer) { return "layer " + std::to_string(layer); }

ExpertSite read_site(const json::Ref& ref, const Model& model) {
  ref.reject_unknown({"layer", "expert"});
  ExpertSite site;
  site.layer = static_cast<int32_t>(ref.at("layer").integer(0, model.n_layers() - 1));
  const Moe* moe = model.layers[static_cast<size_t>(site.layer)].moe();
  if (!moe) ref.at("layer").fail("expected a layer with a router, found " + layer_text(site.layer));
  site.expert = static_cast<int32_t>(ref.at("expert").integer(0, moe->router.n_experts - 1));
  return site;
}

// Sites of one path, each in a later layer than the one before it.
std::vector<ExpertSite> read_path(const json::Ref& list, const Model& model, int32_t above, size_t least) {
  std::vector<ExpertSite> path;
  for (const json::Ref& item : list.items()) {
    path.push_back(read_site(item, model));
    if (path.back().layer <= above)
      item.at("layer").fail("expected a layer above " + std::to_string(above) +
                            ", that of the expert before it, found " + std::to_string(path.back().layer));
    above = path.back().layer;
  }
  if (path.size() < least)
    list.fail("expected at least " + std::to_string(least) + " experts, found " + std::to_string(path.size()));
  return path;
}

int32_t read_token(const json::Ref& ref, const Model& model) {
  return static_cast<int32_t>(ref.integer(0, model.n_vocab - 1));
}

HeadSite read_head(const json::Ref& ref, const Model& model) {
  ref.reject_unknown({"layer", "head"});
  HeadSite site;
  site.layer = static_cast<int32_t>(ref.at("layer").integer(0, model.n_layers() - 1));
  const auto& attention = model.layers[static_cast<size_t>(site.layer)].attention;
  const Gqa* gqa = std::get_if<Gqa>(&attention);
  const int64_t n_heads = gqa ? gqa->n_heads : std::get<Mla>(attention).n_heads;
  site.head = static_cast<int32_t>(ref.at("head").integer(0, n_heads - 1));
  return site;
}

void read_tokens(const json::Ref& ref, const Model& model, CircuitSpec& circuit) {
  const json::Ref list = ref.at("tokens");
  std::set<int32_t> seen;
  for (const json::Ref& item : list.items()) {
    if (item.length() != 2) item.fail("expected a pair of token ids [on, off], found " + std::to_string(item.length()));
    circuit.tokens.emplace_back(read_token(item[0], model), read_token(item[1], model));
    for (const int32_t token : {circuit.tokens.back().first, circuit.tokens.back().second})
      if (!seen.insert(token).second) item.fail("expected each token once, found " + std::to_string(token) + " again");
  }
  if (circuit.tokens.empty()) list.fail("expected at least one pair [on, off], found none");
}

double length_of(const json::Ref& ref) {
  const double value = ref.number();
  if (!(value >= 0 && value <= 64)) ref.fail_type("a number from 0 to 64");
  return value;
}

void read_direction(const json::Ref& ref, const Model& model, CircuitSpec& circuit) {
  circuit.experts = {read_site(ref.at("expert"), model)};
  circuit.content = circuit.router = 6;
  if (const auto found = ref.find("content")) circuit.content = length_of(*found);
  if (const auto found = ref.find("router")) circuit.router = length_of(*found);
  if (circuit.content == 0 && circuit.router == 0) ref.fail("expected content or router above 0, found 0 and 0");
  const json::Ref swap = ref.at("swap");
  if (swap.length() != 2) swap.fail("expected two experts [off, on], found " + std::to_string(swap.length()));
  const size_t next = static_cast<size_t>(circuit.experts[0].layer) + 1;
  const Moe* moe = next < model.layers.size() ? model.layers[next].moe() : nullptr;
  if (!moe)
    ref.at("expert").at("layer").fail("expected a layer whose next one has a router, found " +
                                      std::to_string(circuit.experts[0].layer));
  const auto expert = [&](size_t i) { return static_cast<int32_t>(swap[i].integer(0, moe->router.n_experts - 1)); };
  circuit.swap = {expert(0), expert(1)};
  if (circuit.swap.first == circuit.swap.second)
    swap.fail("expected two different experts, found " + std::to_string(circuit.swap.first) + " twice");
}

void read_induction(const json::Ref& ref, const Model& model, CircuitSpec& circuit) {
  circuit.previous = read_head(ref.at("previous"), model);
  circuit.match = read_head(ref.at("match"), model);
  if (circuit.match.layer <= circuit.previous.layer)
    ref.at("match").at("layer").fail("expected a layer above that of \"previous\" (" +
                                     std::to_string(circuit.previous.layer) + "), found " +
                                     std::to_string(circuit.match.layer));
  const json::Ref tokens = ref.at("tokens");
  std::set<int32_t> seen;
  for (const json::Ref& item : tokens.items()) {
    circuit.coded.push_back(read_token(item, model));
    if (!seen.insert(circuit.coded.back()).second)
      item.fail("expected each token once, found " + std::to_string(circuit.coded.back()) + " again");
  }
  if (circuit.coded.size() < 8)
    tokens.fail("expected at least 8 tokens, found " + std::to_string(circuit.coded.size()));
}

CircuitSpec read_circuit(const json::Ref& ref, const Model& model) {
  CircuitSpec circuit;
  circuit.where = ref.where() + ": " + ref.path();
  const json::Ref kind = ref.at("kind");
  const auto found = std::find_if(std::begin(kinds), std::end(kinds),
                                  [&](const NamedKind& named) { return kind.string() == named.name; });
  if (found == std::end(kinds))
    kind.fail(wrong_name("a kind of circuit", kind.string(), names_of(kinds, &NamedKind::name)));
  circuit.kind = found->kind;
  switch (circuit.kind) {
    case Kind::route:
    case Kind::content:
      ref.reject_unknown({"kind", "experts", "tokens", "answer", "foil", "records", "length"});
      circuit.experts = read_path(ref.at("experts"), model, -1, 2);
      break;
    case Kind::mixed:
      ref.reject_unknown({"kind", "source", "route", "content", "tokens", "answer", "foil", "records", "length"});
      circuit.experts = {read_site(ref.at("source"), model)};
      for (const ExpertSite& site : read_path(ref.at("route"), model, circuit.experts[0].layer, 1))
        circuit.experts.push_back(site);
      circuit.other = read_path(ref.at("content"), model, circuit.experts[0].layer, 1);
      break;
    case Kind::either:
      ref.reject_unknown({"kind", "experts", "reader", "tokens", "answer", "foil", "records", "length"});
      circuit.experts = read_path(ref.at("experts"), model, -1, 2);
      if (circuit.experts.size() != 2)
        ref.at("experts").fail("expected two experts, found " + std::to_string(circuit.experts.size()));
      circuit.other = {read_site(ref.at("reader"), model)};
      if (circuit.other[0].layer <= circuit.experts[1].layer)
        ref.at("reader").at("layer").fail("expected a layer above " + std::to_string(circuit.experts[1].layer) +
                                          ", found " + std::to_string(circuit.other[0].layer));
      break;
    case Kind::direction:
      ref.reject_unknown(
          {"kind", "expert", "swap", "content", "router", "tokens", "answer", "foil", "records", "length"});
      read_direction(ref, model, circuit);
      break;
    case Kind::induction:
      ref.reject_unknown({"kind", "previous", "match", "tokens", "records", "length"});
      read_induction(ref, model, circuit);
      break;
  }
  if (circuit.kind != Kind::induction) {
    read_tokens(ref, model, circuit);
    circuit.answer = read_token(ref.at("answer"), model);
    circuit.foil = read_token(ref.at("foil"), model);
    if (circuit.answer == circuit.foil)
      ref.at("foil").fail("expected another token than the answer, found " + std::to_string(circuit.foil));
  }
  if (const auto records = ref.find("records")) circuit.n_records = records->integer(1, 100000);
  const int64_t least = circuit.kind == Kind::induction ? 6 : 1;
  if (circuit.kind == Kind::induction) circuit.length = 24;
  circuit.length = std::min(circuit.length, model.max_positions);
  if (const auto length = ref.find("length")) circuit.length = length->integer(least, model.max_positions);
  return circuit;
}

}  // namespace

const char* kind_name(Kind kind) {
  for (const NamedKind& named : kinds)
    if (named.kind == kind) return named.name;
  return "";
}

std::vector<CircuitSpec> read_circuits(const json::Ref& list, const Model& model) {
  std::vector<CircuitSpec> circuits;
  for (const json::Ref& item : list.items()) circuits.push_back(read_circuit(item, model));
  if (!circuits.empty() && model.tied_embeddings)
    list.fail("expected tie_word_embeddings false for a circuit that writes to the logits, found true");
  return circuits;
}

}  // namespace signalbox::loaders::synthetic
