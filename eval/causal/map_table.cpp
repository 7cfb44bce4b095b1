#include "eval/causal/map_table.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/csv.h"
#include "base/error.h"
#include "base/files.h"
#include "base/no_number.h"
#include "base/safetensors.h"
#include "eval/statistics/resampling.h"
#include "eval/store/merge.h"

namespace signalbox::eval {

namespace fs = std::filesystem;

namespace {

template <class T>
void put(safetensors::Writer& file, const std::vector<T>& values) {
  file.write(values.data(), values.size() * sizeof(T));
}

template <class T>
std::vector<T> tensor_of(const safetensors::File& file, const char* name, const char* dtype,
                         const std::vector<int64_t>& shape) {
  const safetensors::TensorInfo& info = file.at(name);
  if (info.dtype != dtype || info.shape != shape)
    throw Error(file.name(), std::string("expected ") + name + " of " + dtype + " " + safetensors::shape_text(shape) +
                                 ", found " + info.dtype + " " + safetensors::shape_text(info.shape));
  std::vector<T> values(static_cast<size_t>(info.elements()));
  std::memcpy(values.data(), file.data(info), values.size() * sizeof(T));
  return values;
}

json::Value list_of(const std::vector<int32_t>& layers) {
  json::Value list = json::Value::array();
  for (const int32_t layer : layers) list.push_back(int64_t{layer});
  return list;
}

json::Value sample_json(const MapSample& sample) {
  return json::Value::object().set("of_expert", sample.of_expert).set("top", sample.top).set("seed", sample.seed);
}

json::Value interval_json(const ExpertEffect& of) {
  return json::Value::object().set("mean", of.mean).set("ci_lo", of.ci_lo).set("ci_hi", of.ci_hi);
}

// Spearman's correlation of estimate and exact effect over the cells that `counts` takes.
json::Value rank_correlation(const MapTable& table, bool only_sampled) {
  std::vector<double> estimates, effects;
  for (size_t i = 0; i < table.effect.size(); ++i) {
    if (std::isnan(table.effect[i]) || (only_sampled && table.chosen[i] != static_cast<uint8_t>(Chosen::sampled)))
      continue;
    estimates.push_back(static_cast<double>(table.estimate[i]));
    effects.push_back(static_cast<double>(table.effect[i]));
  }
  const std::optional<double> found = spearman(estimates, effects);
  return found ? json::Value(*found) : json::Value();
}

// Of the sample; nothing else is drawn.
json::Value seed_of(const MapTable& table) { return table.sample ? json::Value(table.sample->seed) : json::Value(); }

json::Value summary_of(const MapTable& table, const std::vector<ExpertEffect>& experts) {
  const MapCounts counts = count_map(table);
  json::Value summary = json::Value::object();
  summary.set("schema", map_schema);
  for (const auto& [key, value] : table.settings.members()) summary.set(key, value);
  summary.set("records", static_cast<int64_t>(table.ids.size())).set("layers", list_of(table.layers));
  summary.set("ablation", *table.settings.find("without")).set("seed", seed_of(table));
  summary.set("split", nullptr).set("cells", counts.cells).set("share_of_brute_force", counts.share());
  const auto share = [](int64_t part, int64_t of) {
    return of > 0 ? static_cast<double>(part) / static_cast<double>(of) : no_number;
  };
  summary.set("flip_share", share(counts.flips, counts.places));
  summary.set("cells_with_flips", share(counts.flipped, counts.cells));
  summary.set("mean_effect", interval_json(all_effects(experts)));
  if (!table.sample) return summary.set("sample", nullptr);
  summary.set("sample", sample_json(*table.sample)).set("estimated_cells", all_effects(experts).cells);
  return summary.set("rank_correlation", json::Value::object()
                                             .set("sampled", rank_correlation(table, true))
                                             .set("all_exact", rank_correlation(table, false)));
}

std::string experts_text(const MapTable& table, const std::vector<ExpertEffect>& experts) {
  CsvWriter csv({"layer", "expert", "cells", "exact", "top", "sampled", "mean_atp", "mean", "ci_lo", "ci_hi"});
  for (const ExpertEffect& one : experts) {
    csv.cell(int64_t{one.layer}).cell(int64_t{one.expert}).cell(one.cells).cell(one.exact);
    csv.cell(table.sample ? one.top : 0).cell(table.sample ? one.sampled : 0).cell(one.mean_estimate);
    csv.cell(one.mean).cell(one.ci_lo).cell(one.ci_hi);
    csv.end_row();
  }
  return csv.text();
}

json::Value metadata_json(const safetensors::File& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) throw Error(file.name(), "expected metadata \"" + key + "\", found none");
  return json::parse(found->second, file.name() + ": " + key);
}

// Record k of the whole is record k / n of shard k mod n.
MapTable woven(const std::vector<MapTable>& parts) {
  MapTable whole = parts.front();
  whole.ids.clear();
  whole.offsets = {0};
  whole.base.clear();
  whole.tokens.clear();
  whole.experts.clear();
  whole.effect.clear();
  whole.flips.clear();
  whole.estimate.clear();
  whole.chosen.clear();
  size_t total = 0;
  for (const MapTable& part : parts) total += part.ids.size();
  for (size_t k = 0; k < total; ++k) {
    const MapTable& from = parts[k % parts.size()];
    const size_t record = k / parts.size();
    const auto begin = from.offsets.at(record), end = from.offsets.at(record + 1);
    const auto row = static_cast<int64_t>(from.row());
    const auto add = [&](auto& to, const auto& values, int64_t width) {
      to.insert(to.end(), values.begin() + begin * width, values.begin() + end * width);
    };
    whole.ids.push_back(from.ids[record]);
    whole.base.push_back(from.base[record]);
    whole.offsets.push_back(whole.offsets.back() + end - begin);
    add(whole.tokens, from.tokens, 1);
    add(whole.experts, from.experts, row);
    add(whole.effect, from.effect, row);
    add(whole.flips, from.flips, row);
    if (!whole.sample) continue;
    add(whole.estimate, from.estimate, row);
  }
  if (!whole.sample) return whole;
  // Of what the shards ran, what one process would have run.
  whole.chosen = choose_cells(whole, *whole.sample);
  for (size_t i = 0; i < whole.effect.size(); ++i) {
    const bool taken = whole.chosen[i] != static_cast<uint8_t>(Chosen::no);
    if (taken && std::isnan(whole.effect[i]))
      throw Error("merge", "expected every cell of the sample in some shard, found none for cell " + std::to_string(i));
    if (taken) continue;
    whole.effect[i] = std::numeric_limits<float>::quiet_NaN();
    whole.flips[i] = -1;
  }
  return whole;
}

}  // namespace

void write_map(const fs::path& dir, const MapTable& table) {
  const int64_t n = table.offsets.back(), n_layers = static_cast<int64_t>(table.layers.size()), k = table.n_active;
  const bool wide = table.n_experts >= 256;
  json::Value samples = json::Value::array();
  for (const std::string& id : table.ids) samples.push_back(id);
  std::vector<safetensors::TensorHeader> headers = {
      {"sample_offsets", "I64", {static_cast<int64_t>(table.offsets.size())}},
      {"base", "F64", {static_cast<int64_t>(table.base.size())}},
      {"effect", "F32", {n, n_layers, k}},
      {"flips", "I32", {n, n_layers, k}}};
  if (table.sample) headers.push_back({"atp", "F32", {n, n_layers, k}});
  headers.push_back({"tokens", "I32", {n}});
  headers.push_back({"layers", "I32", {n_layers}});
  headers.push_back({"router.ids", wide ? "U16" : "U8", {n, n_layers, k}});
  if (table.sample) headers.push_back({"chosen", "U8", {n, n_layers, k}});
  const auto text = [&](const char* key) {
    const json::Value* value = table.settings.find(key);
    return value && value->is_string() ? value->string() : std::string();
  };
  safetensors::Writer file(dir / map_file, headers,
                           {{"schema", map_schema},
                            {"samples", json::dump(samples)},
                            {"metric", text("metric")},
                            {"without", text("without")},
                            {"model", text("model")},
                            {"model_hash", text("model_hash")},
                            {"settings", json::dump(table.settings)},
                            {"sample", table.sample ? json::dump(sample_json(*table.sample)) : "null"},
                            {"routed_layers", json::dump(list_of(table.routed_layers))},
                            {"n_layers", std::to_string(table.n_layers)},
                            {"n_experts", std::to_string(table.n_experts)},
                            {"n_active", std::to_string(k)}});
  put(file, table.offsets);
  put(file, table.base);
  put(file, table.effect);
  put(file, table.flips);
  if (table.sample) put(file, table.estimate);
  put(file, table.tokens);
  put(file, table.layers);
  if (wide)
    put(file, std::vector<uint16_t>(table.experts.begin(), table.experts.end()));
  else
    put(file, std::vector<uint8_t>(table.experts.begin(), table.experts.end()));
  if (table.sample) put(file, table.chosen);
  file.finish();
  const std::vector<ExpertEffect> experts = expert_effects(table);
  write_file_atomically(dir / map_experts_file, experts_text(table, experts));
  write_file_atomically(dir / map_summary_file, json::dump(summary_of(table, experts)) + "\n");
}

MapTable read_map(const fs::path& dir) {
  const auto file = safetensors::File::open(dir / map_file);
  MapTable table;
  const auto number = [&](const char* key) {
    const json::Value value = metadata_json(*file, key);
    return json::Ref(value, file->name() + ": " + key).size();
  };
  table.n_experts = number("n_experts");
  table.n_active = number("n_active");
  table.n_layers = number("n_layers");
  table.settings = metadata_json(*file, "settings");
  const json::Value samples = metadata_json(*file, "samples"), routed = metadata_json(*file, "routed_layers"),
                    sample = metadata_json(*file, "sample");
  for (const json::Ref& id : json::Ref(samples, file->name()).items()) table.ids.push_back(id.string());
  for (const json::Ref& layer : json::Ref(routed, file->name()).items())
    table.routed_layers.push_back(static_cast<int32_t>(layer.integer(0, INT32_MAX)));
  if (!sample.is_null()) {
    const json::Ref of(sample, file->name() + ": sample");
    table.sample = MapSample{of.at("of_expert").size(), of.at("top").size(),
                             static_cast<uint64_t>(of.at("seed").value().integer())};
  }
  const auto n_records = static_cast<int64_t>(table.ids.size());
  table.offsets = tensor_of<int64_t>(*file, "sample_offsets", "I64", {n_records + 1});
  if (table.offsets.front() != 0 || !std::is_sorted(table.offsets.begin(), table.offsets.end()))
    throw Error(file->name(), "expected sample_offsets that ascend from 0, found others");
  table.base = tensor_of<double>(*file, "base", "F64", {n_records});
  table.layers = tensor_of<int32_t>(*file, "layers", "I32", {file->at("layers").elements()});
  const std::vector<int64_t> cells = {table.offsets.back(), static_cast<int64_t>(table.layers.size()), table.n_active};
  table.tokens = tensor_of<int32_t>(*file, "tokens", "I32", {table.offsets.back()});
  table.effect = tensor_of<float>(*file, "effect", "F32", cells);
  table.flips = tensor_of<int32_t>(*file, "flips", "I32", cells);
  const auto ids = [&](const auto& stored, int64_t unused) {
    for (const auto id : stored) table.experts.push_back(id == unused ? -1 : static_cast<int32_t>(id));
  };
  if (table.n_experts >= 256)
    ids(tensor_of<uint16_t>(*file, "router.ids", "U16", cells), 65535);
  else
    ids(tensor_of<uint8_t>(*file, "router.ids", "U8", cells), 255);
  if (table.sample) {
    table.estimate = tensor_of<float>(*file, "atp", "F32", cells);
    table.chosen = tensor_of<uint8_t>(*file, "chosen", "U8", cells);
  }
  return table;
}

void merge_maps(const fs::path& out, std::span<const fs::path> shards,
                const std::function<void(int64_t, int64_t)>& on_progress) {
  MergeOptions options;
  options.schema = map_schema;
  options.has_samples = false;
  options.common.clear();
  options.of_records = {"records.jsonl", "texts.jsonl"};
  options.on_progress = on_progress;
  options.finalize = [&](const fs::path& dir) {
    std::vector<MapTable> parts(shards.size());
    for (const fs::path& shard : shards) {
      const std::optional<Manifest> manifest = Manifest::read(shard, map_schema);
      parts.at(static_cast<size_t>(manifest->shard.index)) = read_map(shard);
    }
    write_map(dir, woven(parts));
  };
  merge_runs(out, shards, options);
}

}  // namespace signalbox::eval
