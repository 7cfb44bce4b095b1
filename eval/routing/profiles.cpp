#include "eval/routing/profiles.h"

#include <xxhash.h>

#include <fstream>
#include <map>

#include "base/csv.h"
#include "base/files.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "eval/routing/trace_set.h"

namespace signalbox::eval {

namespace {

// What profiles need to know of a sample beyond what TraceSet keeps.
struct Label {
  std::string base, regime, unit;
  std::optional<double> difficulty;
  uint64_t wording = 0;
};

std::string text_or_empty(const json::Ref& line, std::string_view key) {
  const auto found = line.find(key);
  return found ? found->string() : std::string();
}

Label read_label(const json::Ref& line) {
  Label label;
  label.regime = text_or_empty(line, "condition");
  if (label.regime.empty()) line.fail("expected a condition (the regime), found none");
  label.unit = text_or_empty(line, "pair");
  label.base = text_or_empty(line, "base");
  if (label.base.empty()) label.base = label.unit;
  if (label.base.empty()) line.fail("expected the key \"base\" or \"pair\" (the base record's id), found neither");
  if (label.unit.empty()) label.unit = label.base;
  if (const auto difficulty = line.find("difficulty")) label.difficulty = difficulty->number();
  for (const char* key : {"prompt", "messages", "tokens"})
    if (const auto text = line.find(key)) {
      const std::string written = json::dump(text->value());
      label.wording = XXH3_64bits(written.data(), written.size());
    }
  return label;
}

// Labels of the samples of one trace, in order. TraceSet has checked that there is a line for each.
std::vector<Label> read_labels(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::vector<Label> labels;
  std::string line;
  while (std::getline(in, line)) {
    const std::string where = file.string() + ":" + std::to_string(labels.size() + 1);
    const json::Value value = json::parse(line, where);
    labels.push_back(read_label(json::Ref(value, where)));
  }
  return labels;
}

void add_routes(const TraceReader& trace, TraceReader::Rows rows, Trajectory& out, int32_t n_experts) {
  const std::vector<uint8_t> phase = trace.phase(rows);
  const std::vector<int32_t> ids = trace.ids(rows);
  const bool weighted = trace.has("router.weights");
  const std::vector<float> weights = weighted ? trace.weights(rows) : std::vector<float>();
  const size_t n_layers = trace.layers().size(), n_slots = static_cast<size_t>(trace.n_slots());
  std::vector<double> weight(n_layers * n_experts, 0.0);
  out.count.assign(n_layers * n_experts, 0);
  for (int64_t t = 0; t < rows.size(); ++t) {
    if (phase[t] == 0) continue;
    ++out.n_tokens;
    for (size_t l = 0; l < n_layers; ++l)
      for (size_t s = 0; s < n_slots; ++s) {
        const size_t at = (static_cast<size_t>(t) * n_layers + l) * n_slots + s;
        if (ids[at] < 0) continue;
        const size_t row = l * n_experts + static_cast<size_t>(ids[at]);
        ++out.count[row];
        if (weighted) weight[row] += weights[at];
      }
  }
  if (out.n_tokens == 0) return;
  const double n = static_cast<double>(out.n_tokens);
  for (double value : weight) out.weight.push_back(static_cast<float>(value / n));
}

}  // namespace

RoutingProfiles read_profiles(const TraceSet& traces) {
  RoutingProfiles profiles;
  profiles.layers = traces.layers();
  profiles.n_experts = traces.n_experts();
  std::vector<std::vector<Label>> labels;
  for (size_t t = 0; t < traces.n_traces(); ++t) labels.push_back(read_labels(traces.directory(t) / "records.jsonl"));
  std::map<std::pair<std::string, std::string>, int64_t> n_samples;
  std::map<std::string, std::pair<std::optional<double>, std::string>> difficulty;  // of a base, and where it stands
  for (const TraceSample& sample : traces.samples()) {
    const Label& label = labels[sample.trace].at(static_cast<size_t>(sample.index));
    const std::string where =
        (traces.directory(sample.trace) / "records.jsonl").string() + ":" + std::to_string(sample.index + 1);
    const auto [known, fresh] = difficulty.emplace(label.base, std::pair(label.difficulty, where));
    if (!fresh && known->second.first != label.difficulty)
      throw Error(where, "difficulty: expected the one of base \"" + label.base + "\" at " + known->second.second +
                             ", found another");
    Trajectory out{.base = label.base,
                   .regime = label.regime,
                   .unit = label.unit,
                   .sample = 0,
                   .n_tokens = 0,
                   .difficulty = label.difficulty,
                   .wording = label.wording,
                   .count = {},
                   .weight = {}};
    const TraceReader& trace = traces.trace(sample.trace);
    add_routes(trace, trace.rows(sample.index), out, profiles.n_experts);
    if (out.n_tokens == 0) {
      profiles.empty.push_back(trace.sample_ids()[sample.index]);
      continue;
    }
    profiles.prompts.add(traces.records()[sample.record].prompts);
    out.sample = n_samples[{out.base, out.regime}]++;
    profiles.trajectories.push_back(std::move(out));
  }
  if (profiles.trajectories.empty())
    throw Error(traces.trace(0).file(), "expected generated tokens to make profiles of, found none");
  return profiles;
}

void write_profiles(const RoutingProfiles& profiles, const std::filesystem::path& file) {
  const auto n = static_cast<int64_t>(profiles.trajectories.size());
  const auto n_layers = static_cast<int64_t>(profiles.layers.size());
  json::Value bases = json::Value::array(), regimes = json::Value::array();
  std::vector<int64_t> tokens, samples;
  for (const Trajectory& trajectory : profiles.trajectories) {
    bases.push_back(trajectory.base);
    regimes.push_back(trajectory.regime);
    tokens.push_back(trajectory.n_tokens);
    samples.push_back(trajectory.sample);
  }
  const std::vector<safetensors::TensorHeader> headers = {{"share", "F32", {n, n_layers, profiles.n_experts}},
                                                          {"weight", "F32", {n, n_layers, profiles.n_experts}},
                                                          {"tokens", "I64", {n}},
                                                          {"samples", "I64", {n}},
                                                          {"layers", "I32", {n_layers}}};
  safetensors::Writer writer(
      file, headers,
      {{"schema", "signalbox.profiles/1"}, {"bases", json::dump(bases)}, {"regimes", json::dump(regimes)}});
  std::vector<float> share(profiles.n_rows());
  for (const Trajectory& t : profiles.trajectories) {
    for (size_t row = 0; row < share.size(); ++row) share[row] = static_cast<float>(t.share(row));
    writer.write(share.data(), share.size() * sizeof(float));
  }
  for (const Trajectory& t : profiles.trajectories) writer.write(t.weight.data(), t.weight.size() * sizeof(float));
  writer.write(tokens.data(), tokens.size() * sizeof(int64_t));
  writer.write(samples.data(), samples.size() * sizeof(int64_t));
  writer.write(profiles.layers.data(), profiles.layers.size() * sizeof(int32_t));
  writer.finish();
}

void write_profiles_csv(const RoutingProfiles& profiles, const std::filesystem::path& file) {
  CsvWriter csv({"base", "regime", "sample", "layer", "expert", "tokens", "share", "mean_weight"});
  for (const Trajectory& t : profiles.trajectories)
    for (size_t l = 0; l < profiles.layers.size(); ++l)
      for (int64_t e = 0; e < profiles.n_experts; ++e) {
        const size_t row = l * static_cast<size_t>(profiles.n_experts) + static_cast<size_t>(e);
        if (t.count[row] == 0) continue;
        csv.cell(t.base)
            .cell(t.regime)
            .cell(t.sample)
            .cell(static_cast<int64_t>(profiles.layers[l]))
            .cell(e)
            .cell(int64_t{t.count[row]})
            .cell(t.share(row))
            .cell(static_cast<double>(t.weight[row]));
        csv.end_row();
      }
  write_file_atomically(file, csv.text());
}

}  // namespace signalbox::eval
