#include "loaders/synthetic/circuits.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace signalbox::loaders::synthetic {

namespace {

using Kind = CircuitSpec::Kind;

// The logits of answer and foil, one up and one down, where a flag has its nominal size.
constexpr double answer_logit = 8;
// A direction's answer, large enough that other vectors of the direction's length do not write it by chance.
constexpr double direction_answer = 4;

std::string expert_name(int32_t layer, int32_t expert) {
  return "L" + std::to_string(layer) + ".E" + std::to_string(expert);
}

json::Value integers(const std::vector<int64_t>& list) {
  json::Value out = json::Value::array();
  for (const int64_t item : list) out.push_back(json::Value(item));
  return out;
}

}  // namespace

Circuits::Circuits(const Spec& spec, Reserved& reserved)
    : spec_(spec), reserved_(reserved), gates_(spec.model, reserved), built_(spec.circuits.size()) {
  check_tokens();
  check_heads();
  for (size_t i = 0; i < spec.circuits.size(); ++i) build(i);
  for (size_t i = 0; i < spec.circuits.size(); ++i) {  // now that all reserved dimensions are known
    const CircuitSpec& circuit = spec.circuits[i];
    if (circuit.kind != Kind::direction) continue;
    built_[i].direction = direction_parts(spec, reserved, circuit);
    std::vector<double> sum = built_[i].direction.content;
    for (size_t c = 0; c < sum.size(); ++c) sum[c] += built_[i].direction.router[c];
    gates_.set_vector(circuit.experts[0].layer, std::move(sum));
  }
  for (const Gate& gate : gates_.all())
    for (const Plant& plant : spec.plants)
      if (plant.layer == gate.site.layer)
        throw Error(
            spec.circuits[static_cast<size_t>(gate.circuit)].where,
            "expected layers without entries of \"planted\", found one in layer " + std::to_string(plant.layer));
}

void Circuits::check_tokens() const {
  std::map<int32_t, size_t> read, written;
  const auto claim = [&](std::map<int32_t, size_t>& taken, int32_t token, size_t circuit, const char* what) {
    const auto [place, added] = taken.emplace(token, circuit);
    if (!added)
      throw Error(spec_.circuits[circuit].where, std::string("expected ") + what + " of its own, found token " +
                                                     std::to_string(token) + ", which circuits[" +
                                                     std::to_string(place->second) + "] has");
  };
  for (size_t i = 0; i < spec_.circuits.size(); ++i) {
    const CircuitSpec& circuit = spec_.circuits[i];
    for (const auto& [on, off] : circuit.tokens)
      for (const int32_t token : {on, off}) claim(read, token, i, "tokens");
    // Whose rows of the head are the circuit's own.
    if (circuit.kind == Kind::induction) {
      for (const int32_t token : circuit.coded) {
        claim(read, token, i, "tokens");
        claim(written, token, i, "tokens to predict");
      }
    } else {
      for (const int32_t token : {circuit.answer, circuit.foil}) claim(written, token, i, "answer and foil");
    }
  }
}

// Heads share queries' and keys' coordinates with others of their layer, so a layer holds one planted head.
void Circuits::check_heads() const {
  std::map<int32_t, size_t> taken;
  for (size_t i = 0; i < spec_.circuits.size(); ++i) {
    const CircuitSpec& circuit = spec_.circuits[i];
    if (circuit.kind != Kind::induction) continue;
    for (const CircuitSpec& other : spec_.circuits)
      if (other.kind == Kind::direction)
        for (const int32_t layer : {circuit.previous.layer, circuit.match.layer})
          if (layer == other.experts[0].layer + 1)
            throw Error(circuit.where, "expected layers whose attention speaks, found layer " + std::to_string(layer) +
                                           " after a direction");
    for (const int32_t layer : {circuit.previous.layer, circuit.match.layer})
      if (const auto [place, added] = taken.emplace(layer, i); !added)
        throw Error(circuit.where, "expected layers without another circuit's heads, found those of circuits[" +
                                       std::to_string(place->second) + "] in layer " + std::to_string(layer));
    for (const Plant& plant : spec_.plants)
      if (plant.from_begin)
        throw Error(circuit.where, "expected a spec whose \"planted\" entries need no heads, found one with \"begin\"");
  }
}

// The gates of one circuit and the flags between them, or its heads.
void Circuits::build(size_t index) {
  const CircuitSpec& circuit = spec_.circuits[index];
  Built& built = built_[index];
  if (circuit.kind == Kind::induction) {
    built.induction = std::make_unique<Induction>(circuit, spec_.model, spec_.init.matrix, reserved_);
    return;
  }
  built.mark = reserved_.take();
  const auto flag = [&] {
    built.flags.push_back(reserved_.take());
    return built.flags.back();
  };
  const auto answer = [&] {
    built.answers.push_back(reserved_.take());
    return built.answers.back();
  };
  const auto add = [&](const ExpertSite& site, int64_t reads, bool through_route, int64_t writes) {
    Gate gate;
    gate.circuit = static_cast<int>(index);
    gate.site = site;
    if (through_route) {
      gate.selected_by = {reads};
      gate.threshold = 0.25;
    } else {
      gate.copies = reads;
    }
    gate.writes = {writes};
    gates_.add(gate, circuit.where);
  };
  // A chain from the flag `reads` to an answer of its own.
  const auto chain = [&](const std::vector<ExpertSite>& path, int64_t reads, bool through_route) {
    for (size_t i = 0; i < path.size(); ++i) {
      const int64_t writes = i + 1 == path.size() ? answer() : flag();
      add(path[i], reads, through_route, writes);
      reads = writes;
    }
  };
  switch (circuit.kind) {
    case Kind::route:
    case Kind::content: chain(circuit.experts, built.mark, circuit.kind == Kind::route); return;
    case Kind::mixed: {
      const int64_t between = flag();
      add(circuit.experts[0], built.mark, false, between);
      chain({circuit.experts.begin() + 1, circuit.experts.end()}, between, true);
      chain(circuit.other, between, false);
      return;
    }
    case Kind::either: {
      for (const ExpertSite& site : circuit.experts) add(site, built.mark, false, flag());
      Gate reader;
      reader.circuit = static_cast<int>(index);
      reader.site = circuit.other[0];
      reader.selected_by = built.flags;
      reader.threshold = -0.5;  // between one of two (0) and none (-2)
      reader.writes = {answer()};
      gates_.add(reader, circuit.where);
      return;
    }
    case Kind::direction: {
      Gate writer, reader;
      writer.circuit = reader.circuit = static_cast<int>(index);
      writer.site = circuit.experts[0];
      writer.copies = built.mark;
      gates_.add(writer, circuit.where);
      reader.site = {writer.site.layer + 1, circuit.swap.second};
      reader.instead = circuit.swap.first;
      reader.random_rows = true;
      reader.writes = {answer()};
      reader.write_size = built.answer_size = direction_answer;
      gates_.add(reader, circuit.where);
      return;
    }
    case Kind::induction: return;
  }
}

int64_t Circuits::drawn_as(int64_t token) const {
  for (const CircuitSpec& circuit : spec_.circuits)
    for (const auto& [on, off] : circuit.tokens)
      if (off == token) return on;
  return token;
}

void Circuits::apply(const TensorPlace& slot, int64_t first, int64_t n, float* values) const {
  if (empty()) return;
  if (slot.id.role == Role::lm_head) apply_head(first, n, slot.cols, values);
  if (slot.id.role == Role::o || slot.id.role == Role::o_bias) apply_silence(slot, n, values);
  gates_.apply(slot, first, n, values);
  for (const Built& built : built_)
    if (built.induction) built.induction->apply(slot, first, n, values);
  if (slot.id.role == Role::embed) apply_embed(first, n, slot.cols, values);
}

// The layer after a direction adds nothing by its attention, so that its router reads what stands in the stream.
void Circuits::apply_silence(const TensorPlace& slot, int64_t n, float* values) const {
  for (const CircuitSpec& circuit : spec_.circuits)
    if (circuit.kind == Kind::direction && slot.id.layer == circuit.experts[0].layer + 1)
      std::fill_n(values, n * slot.cols, 0.0f);
}

void Circuits::apply_embed(int64_t first, int64_t n, int64_t cols, float* values) const {
  const auto mark = static_cast<float>(flag_size * reserved_.amplitude());
  for (size_t i = 0; i < built_.size(); ++i) {
    if (built_[i].mark < 0) continue;
    for (int64_t r = first; r < first + n; ++r) values[(r - first) * cols + built_[i].mark] = -mark;
    for (const auto& [on, off] : spec_.circuits[i].tokens)
      if (on >= first && on < first + n) values[(on - first) * cols + built_[i].mark] = mark;
  }
  // All embeddings have one length, so that the normed constant is 1 at every token.
  const double length = static_cast<double>(cols) * reserved_.amplitude() * reserved_.amplitude();
  for (int64_t r = 0; r < n; ++r) {
    float* row = values + r * cols;
    double random = 0, planted = 0;
    for (int64_t c = 0; c < cols; ++c) (c < reserved_.first() ? random : planted) += double{row[c]} * double{row[c]};
    if (random == 0) continue;
    // In a narrow model planted dimensions may take more than there is.
    const auto factor = static_cast<float>(std::sqrt(std::max(length - planted, length / 4) / random));
    for (int64_t c = 0; c < reserved_.first(); ++c) row[c] *= factor;
  }
}

void Circuits::apply_head(int64_t first, int64_t n, int64_t cols, float* values) const {
  for (size_t i = 0; i < built_.size(); ++i) {
    if (built_[i].induction) continue;
    for (const auto& [token, sign] :
         {std::pair(spec_.circuits[i].answer, 1.0), std::pair(spec_.circuits[i].foil, -1.0)}) {
      if (token < first || token >= first + n) continue;
      float* row = values + (token - first) * cols;
      std::fill_n(row, cols, 0.0f);
      for (const int64_t dim : built_[i].answers)
        row[dim] = static_cast<float>(sign * answer_logit / built_[i].answer_size);
      // The head reads a direction's content as it does an answer: +-content along it give +-answer_logit.
      const double content = spec_.circuits[i].content;
      for (size_t c = 0; c < built_[i].direction.content.size() && content > 0; ++c)
        row[c] += static_cast<float>(sign * answer_logit / (content * content) * built_[i].direction.content[c]);
    }
  }
}

json::Value Circuits::truth() const {
  json::Value list = json::Value::array();
  for (size_t i = 0; i < built_.size(); ++i) {
    const Induction* induction = built_[i].induction.get();
    json::Value one = induction ? induction->truth() : expert_truth(i);
    list.push_back(std::move(one.set("records", records_file(i))));
  }
  return list;
}

json::Value Circuits::expert_truth(size_t index) const {
  const CircuitSpec& circuit = spec_.circuits[index];
  const Built& built = built_[index];
  json::Value nodes = json::Value::array(), edges = json::Value::array();
  const auto add_edge = [&](const std::string& source, const std::string& target, const char* kind) {
    json::Value edge = json::Value::object();
    edge.set("source", json::Value(source)).set("target", json::Value(target)).set("kind", json::Value(kind));
    edges.push_back(std::move(edge));
  };
  // Who writes a flag: the embeddings, or a gate of this circuit.
  const auto writer = [&](int64_t flag) -> std::string {
    for (const Gate& gate : gates_.all())
      if (std::count(gate.writes.begin(), gate.writes.end(), flag) > 0)
        return expert_name(gate.site.layer, gate.site.expert);
    return "embed";
  };
  for (const Gate& gate : gates_.all()) {
    if (gate.circuit != static_cast<int>(index)) continue;
    const std::string name = expert_name(gate.site.layer, gate.site.expert);
    json::Value node = json::Value::object();
    node.set("id", json::Value(name)).set("layer", json::Value(gate.site.layer));
    node.set("expert", json::Value(gate.site.expert)).set("instead", json::Value(gate.instead));
    node.set("selected", json::Value(gate.random_rows           ? "by direction"
                                     : gate.selected_by.empty() ? "always"
                                                                : "by flag"));
    node.set("writes", integers(gate.writes));
    nodes.push_back(std::move(node));
    for (const int64_t flag : gate.selected_by) add_edge(writer(flag), name, "selects");
    if (gate.copies >= 0) add_edge(writer(gate.copies), name, "feeds");
  }
  for (const int64_t flag : built.answers) add_edge(writer(flag), "logits", "feeds");
  if (circuit.kind == Kind::direction) {
    const std::string next = expert_name(circuit.experts[0].layer + 1, circuit.swap.second);
    if (circuit.router > 0) add_edge(expert_name(circuit.experts[0].layer, circuit.experts[0].expert), next, "selects");
    if (circuit.content > 0)
      add_edge(expert_name(circuit.experts[0].layer, circuit.experts[0].expert), "logits", "feeds");
  }
  json::Value out = json::Value::object(), tokens = json::Value::array();
  for (const auto& [on, off] : circuit.tokens) {
    json::Value pair = json::Value::array();
    pair.push_back(json::Value(on)).push_back(json::Value(off));
    tokens.push_back(std::move(pair));
  }
  out.set("kind", json::Value(kind_name(circuit.kind)));
  out.set("nodes", std::move(nodes)).set("edges", std::move(edges));
  out.set("tokens", std::move(tokens));
  out.set("answer", json::Value(circuit.answer)).set("foil", json::Value(circuit.foil));
  out.set("mark_dimension", json::Value(built.mark)).set("flag_dimensions", integers(built.flags));
  out.set("answer_dimensions", integers(built.answers));
  if (circuit.kind == Kind::direction) {
    const auto numbers = [](const std::vector<double>& list) {
      json::Value made = json::Value::array();
      for (const double item : list) made.push_back(json::Value(item));
      return made;
    };
    out.set("layer", json::Value(circuit.experts[0].layer));
    json::Value swap = json::Value::array();
    swap.push_back(json::Value(circuit.swap.first)).push_back(json::Value(circuit.swap.second));
    out.set("swap", std::move(swap));
    out.set("content", numbers(built.direction.content)).set("router", numbers(built.direction.router));
  }
  return out;
}

}  // namespace signalbox::loaders::synthetic
