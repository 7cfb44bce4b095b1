// Records on which a planted circuit tells the two of a pair apart.
#include <set>

#include "loaders/synthetic/circuits.h"
#include "loaders/synthetic/values.h"

namespace signalbox::loaders::synthetic {

namespace {

json::Value record(int64_t pair, const char* condition, const std::vector<int32_t>& tokens, int32_t answer,
                   int32_t foil) {
  json::Value line = json::Value::object(), list = json::Value::array();
  for (const int32_t token : tokens) list.push_back(json::Value(token));
  const std::string name = std::to_string(pair);
  line.set("id", json::Value(name + "-" + condition)).set("pair", json::Value(name));
  line.set("condition", json::Value(condition)).set("tokens", std::move(list));
  line.set("answer", json::Value(answer)).set("foil", json::Value(foil));
  return line;
}

}  // namespace

std::string Circuits::records(size_t index) const {
  const CircuitSpec& circuit = spec_.circuits[index];
  std::set<int32_t> special;
  for (const CircuitSpec& other : spec_.circuits) {
    for (const auto& [on, off] : other.tokens) special.insert({on, off});
    special.insert({other.answer, other.foil});
  }
  std::vector<int32_t> plain;
  for (int32_t token = 0; token < std::min<int64_t>(spec_.model.n_vocab, 256); ++token)
    if (special.count(token) == 0) plain.push_back(token);
  if (plain.empty()) throw Error(circuit.where, "expected tokens below 256 that no circuit uses, found none");
  CounterDice dice(spec_.seed, 1000 + index);
  const bool is_direction = circuit.kind == CircuitSpec::Kind::direction;
  std::string lines;
  for (int64_t pair = 0; pair < circuit.n_records; ++pair) {
    std::vector<int32_t> tokens;
    for (int64_t t = 0; t + 1 < circuit.length; ++t) tokens.push_back(plain[dice.below(plain.size())]);
    const auto& [on, off] = circuit.tokens[static_cast<size_t>(pair) % circuit.tokens.size()];
    for (const bool clean : {true, false}) {
      tokens.push_back(clean ? on : off);
      const char* condition = is_direction ? (clean ? "on" : "off") : clean ? "clean" : "corrupt";
      lines += json::dump(record(pair, condition, tokens, circuit.answer, circuit.foil)) + "\n";
      tokens.pop_back();
    }
  }
  return lines;
}

}  // namespace signalbox::loaders::synthetic
