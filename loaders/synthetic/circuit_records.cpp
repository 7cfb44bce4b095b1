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

// Clean "X Y .. W Z .. X", corrupt "W Y .. X Z .. X". What follows the last X is the
// answer Y on the clean side and the foil Z on the corrupt one; both sides hold the same tokens.
std::string induction_records(const CircuitSpec& circuit, CounterDice dice) {
  std::string lines;
  for (int64_t pair = 0; pair < circuit.n_records; ++pair) {
    std::vector<int32_t> coded = circuit.coded;
    for (size_t i = 0; i < 4; ++i) std::swap(coded[i], coded[i + dice.below(coded.size() - i)]);
    const int32_t x = coded[0], y = coded[1], w = coded[2], z = coded[3];
    const auto length = static_cast<size_t>(circuit.length);
    std::vector<int32_t> tokens(length);
    for (int32_t& token : tokens) token = coded[4 + dice.below(coded.size() - 4)];
    // The first token sees itself as the one before it, so it is none of these.
    const size_t a = 1 + dice.below(length - 5), b = a + 2 + dice.below(length - 4 - a);
    tokens[a + 1] = y;
    tokens[b + 1] = z;
    tokens.back() = x;
    // Which tokens of all pairs stand for one another, for circuits by position.
    json::Value align = json::Value::array();
    for (const size_t t : {a, a + 1, b, b + 1, length - 1}) align.push_back(static_cast<int64_t>(t));
    for (const bool clean : {true, false}) {
      tokens[a] = clean ? x : w;
      tokens[b] = clean ? w : x;
      lines += json::dump(record(pair, clean ? "clean" : "corrupt", tokens, y, z).set("align", align)) + "\n";
    }
  }
  return lines;
}

}  // namespace

std::string Circuits::records(size_t index) const {
  const CircuitSpec& circuit = spec_.circuits[index];
  CounterDice dice(spec_.seed, 1000 + index);
  if (circuit.kind == CircuitSpec::Kind::induction) return induction_records(circuit, dice);
  std::set<int32_t> special;
  for (const CircuitSpec& other : spec_.circuits) {
    for (const auto& [on, off] : other.tokens) special.insert({on, off});
    special.insert({other.answer, other.foil});
  }
  std::vector<int32_t> plain;
  for (int32_t token = 0; token < std::min<int64_t>(spec_.model.n_vocab, 256); ++token)
    if (special.count(token) == 0) plain.push_back(token);
  if (plain.empty()) throw Error(circuit.where, "expected tokens below 256 that no circuit uses, found none");
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
