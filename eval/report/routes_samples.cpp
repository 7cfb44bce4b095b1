#include "eval/report/routes_samples.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "eval/report/token_text.h"
#include "eval/routing/trace_set.h"
#include "probes/trace_schema.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

constexpr int64_t bytes_of_text = 10;  // of a token, about: its text and number in the index

struct ChosenSample {
  size_t sample = 0;
  int64_t n_tokens = 0;
};

// One of each combination of condition and domain, then a second of each, and so on.
std::vector<ChosenSample> choose_samples(const TraceSet& set, int64_t bytes_of_token, const SampleLimits& limits) {
  std::vector<std::pair<std::string, std::string>> order;
  std::map<std::pair<std::string, std::string>, std::vector<size_t>> groups;
  for (size_t s = 0; s < set.samples().size(); ++s) {
    const TraceRecord& record = set.records()[set.samples()[s].record];
    const std::pair<std::string, std::string> group = {record.condition, record.domain};
    if (groups[group].empty()) order.push_back(group);
    groups[group].push_back(s);
  }
  std::vector<ChosenSample> out;
  int64_t left = limits.bytes;
  for (size_t round = 0;; ++round) {
    bool any = false;
    for (const auto& group : order) {
      if (round >= groups[group].size()) continue;
      any = true;
      const size_t s = groups[group][round];
      const TraceReader::Rows rows = set.trace(0).rows(set.samples()[s].index);
      // A report of one long sample holds its beginning, whatever the room.
      const int64_t most = std::max<int64_t>(1, out.empty() ? left / bytes_of_token : limits.sample_tokens);
      const int64_t n = std::min({rows.end - rows.begin, limits.sample_tokens, most});
      if (static_cast<int64_t>(out.size()) == limits.samples || (n * bytes_of_token > left && !out.empty())) {
        std::sort(out.begin(), out.end(),
                  [](const ChosenSample& a, const ChosenSample& b) { return a.sample < b.sample; });
        return out;
      }
      left -= n * bytes_of_token;
      out.push_back({s, n});
    }
    if (!any) break;
  }
  std::sort(out.begin(), out.end(), [](const ChosenSample& a, const ChosenSample& b) { return a.sample < b.sample; });
  return out;
}

// The pieces of the chosen samples; empty for a sample of a trace without a tokenizer, or without texts.jsonl.
std::vector<std::vector<std::string>> pieces_of(const fs::path& trace, const TraceSet& set,
                                                const std::vector<ChosenSample>& chosen) {
  std::vector<std::vector<std::string>> out(chosen.size());
  if (!fs::exists(trace / probes::texts_file)) return out;
  LineReader reader(trace / probes::texts_file);
  size_t next = 0;
  int64_t sample = 0;
  for (std::string_view text; next < chosen.size() && reader.next(text); ++sample) {
    if (sample != static_cast<int64_t>(chosen[next].sample)) continue;
    const json::Value value = json::parse(text, reader.where());
    const json::Ref line(value, reader.where());
    const std::string& id = set.trace(0).sample_ids()[chosen[next].sample];
    if (line.at("id").string() != id)
      line.at("id").fail("expected \"" + id + "\", the sample in its place, found \"" + line.at("id").string() + "\"");
    const json::Ref pieces = line.at("pieces");
    if (!pieces.is_null()) {
      if (static_cast<int64_t>(pieces.length()) < chosen[next].n_tokens)
        pieces.fail("expected a piece for each of " + std::to_string(chosen[next].n_tokens) + " tokens, found " +
                    std::to_string(pieces.length()));
      for (int64_t t = 0; t < chosen[next].n_tokens; ++t) out[next].push_back(pieces[static_cast<size_t>(t)].string());
    }
    ++next;
  }
  return out;
}

void append_ids(std::string& out, const std::vector<int32_t>& ids, int32_t bytes) {
  for (const int32_t id : ids) {
    const auto value = static_cast<uint32_t>(id);  // an unused slot is -1: all bits
    out += static_cast<char>(value & 0xFF);
    if (bytes == 2) out += static_cast<char>(value >> 8 & 0xFF);
  }
}

// [rows, L]: slots whose expert the router did not choose.
void append_changed(std::string& out, const std::vector<int32_t>& ids, const std::vector<int32_t>& original, size_t k) {
  for (size_t at = 0; at < ids.size(); at += k) {
    const std::set<int32_t> chosen(original.begin() + static_cast<int64_t>(at),
                                   original.begin() + static_cast<int64_t>(at + k));
    int32_t n = 0;
    for (size_t slot = 0; slot < k; ++slot) n += ids[at + slot] >= 0 && !chosen.contains(ids[at + slot]);
    out += static_cast<char>(n);
  }
}

json::Value array_of(const std::vector<int32_t>& numbers) {
  json::Value out = json::Value::array();
  for (const int32_t number : numbers) out.push_back(int64_t{number});
  return out;
}

}  // namespace

PackedSamples pack_samples(const fs::path& trace, const SampleLimits& limits) {
  const TraceSet set({trace});
  const TraceReader& reader = set.trace(0);
  const auto n_layers = static_cast<int64_t>(reader.layers().size());
  const int64_t n_slots = reader.n_slots();
  const bool weighted = reader.has("router.weights");
  const int32_t id_bytes = reader.n_experts() >= 256 ? 2 : 1;
  const int64_t bytes_of_token =
      n_layers * (n_slots * (id_bytes + weighted) + (reader.edited() ? 1 : 0)) + bytes_of_text;
  const std::vector<ChosenSample> chosen = choose_samples(set, bytes_of_token, limits);
  const std::vector<std::vector<std::string>> pieces = pieces_of(trace, set, chosen);
  const Spelling spelling = spelling_of(pieces);

  PackedSamples out;
  json::Value samples = json::Value::array();
  std::vector<float> weights;
  int64_t row = 0;
  for (size_t i = 0; i < chosen.size(); ++i) {
    const TraceSample& sample = set.samples()[chosen[i].sample];
    const TraceReader::Rows all = reader.rows(sample.index);
    const TraceReader::Rows rows = {all.begin, all.begin + chosen[i].n_tokens};
    const std::vector<int32_t> ids = reader.ids(rows);
    append_ids(out.ids, ids, id_bytes);
    if (reader.edited()) append_changed(out.changed, ids, reader.original_ids(rows), static_cast<size_t>(n_slots));
    if (weighted) {
      const std::vector<float> part = reader.floats("router.weights", rows);
      weights.insert(weights.end(), part.begin(), part.end());
    }
    const std::vector<uint8_t> phase = reader.phase(rows);
    const std::string& id = reader.sample_ids()[chosen[i].sample];
    int64_t nth = 0;
    for (size_t s = 0; s < chosen[i].sample; ++s) nth += reader.sample_ids()[s] == id;
    const TraceRecord& record = set.records()[sample.record];
    json::Value entry = json::Value::object();
    entry.set("id", id).set("nth", nth).set("condition", record.condition).set("domain", record.domain);
    entry.set("row", row).set("n", chosen[i].n_tokens).set("of", all.end - all.begin);
    entry.set("given", static_cast<int64_t>(std::find(phase.begin(), phase.end(), 1) - phase.begin()));
    entry.set("tokens", array_of(reader.tokens(rows)));
    json::Value texts;
    if (!pieces[i].empty()) {
      texts = json::Value::array();
      for (std::string& text : token_texts_of(pieces[i], spelling)) texts.push_back(std::move(text));
    }
    samples.push_back(entry.set("texts", std::move(texts)));
    row += chosen[i].n_tokens;
  }
  json::Value range;
  if (weighted && !weights.empty()) {
    const auto [low, high] = std::minmax_element(weights.begin(), weights.end());
    const double lo = std::min(0.0F, *low), width = *high - lo;
    for (const float weight : weights)
      out.weights += static_cast<char>(width > 0 ? std::lround((weight - lo) / width * 255) : 0);
    range = json::Value::array().push_back(lo).push_back(lo + width);
  }
  out.index = json::Value::object();
  out.index.set("n_experts", int64_t{reader.n_experts()}).set("n_slots", n_slots);
  out.index.set("layers", array_of(reader.layers())).set("id_bytes", int64_t{id_bytes}).set("weights", range);
  out.index.set("edited", reader.edited()).set("n_samples", reader.n_samples()).set("n_tokens", reader.n_tokens());
  out.index.set("samples", std::move(samples));
  return out;
}

}  // namespace signalbox::eval
