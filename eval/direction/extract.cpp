#include "eval/direction/extract.h"

#include <cmath>

#include "base/csv.h"
#include "base/error.h"
#include "base/files.h"
#include "base/safetensors.h"
#include "eval/data/prompt_hash.h"
#include "eval/data/record_jobs.h"
#include "eval/direction/router_space.h"

namespace signalbox::eval {

using namespace engine;

namespace {

LayerDirection layer_direction(const Session& session, const Extraction& found, const ExtractRequest& request,
                               int64_t layer, const std::optional<RouterSpace>& space) {
  const std::vector<size_t> records = found.data.of_set(0);
  std::vector<int> labels;
  std::vector<int64_t> examples;
  double squares = 0;
  for (const size_t i : records) {
    labels.push_back(found.data.labels[i]);
    examples.push_back(found.data.examples[i]);
    for (const float x : found.streams.row(i, layer)) squares += double{x} * double{x};
  }
  LayerDirection out;
  out.whole = estimate_direction(request.estimator, found.streams, layer, records, labels, examples);
  out.router.assign(out.whole.size(), 0);
  out.router_layer = reading_router(session.model, layer);
  if (space) out.router = space->part(out.whole);
  out.rest = out.whole;
  for (size_t c = 0; c < out.rest.size(); ++c) out.rest[c] -= out.router[c];
  const double length = std::sqrt(dot(out.whole, std::span<const double>(out.whole)));
  if (length == 0)
    throw Error("--contrast", "expected streams that differ between " + request.contrast.one + " and " +
                                  request.contrast.other + ", found the same behind layer " + std::to_string(layer));
  out.relative = length / std::sqrt(squares / static_cast<double>(records.size()));
  std::vector<double> scores;
  std::vector<int> chosen;
  for (const size_t i : found.data.of_set(1)) {
    scores.push_back(dot(out.whole, found.streams.row(i, layer)));
    chosen.push_back(found.data.labels[i]);
  }
  out.auc = rank_auc(scores, chosen);
  return out;
}

std::vector<float> floats_of(const std::vector<double>& v) { return {v.begin(), v.end()}; }

}  // namespace

std::vector<std::string> direction_files() {
  return {directions_file, streams_file, selection_file, validation_file, steering_file, direction_summary_file};
}

std::vector<std::string> extraction_files() {
  return {directions_file, streams_file, selection_file, direction_summary_file};
}

Extraction extract_directions(const Session& session, const Labelled& data, const ExtractRequest& request) {
  Extraction found;
  found.data = data;
  if (request.estimator == Estimator::paired) {
    std::vector<int> labels;
    std::vector<int64_t> examples;
    for (const size_t i : data.of_set(0)) {
      labels.push_back(data.labels[i]);
      examples.push_back(data.examples[i]);
    }
    if (!paired_examples(labels, examples))
      throw Error("--method paired", "expected pairs with a record of either condition, found records without one");
  }
  const RecordJobs made = make_jobs(session, data.records, Generate{}, nullptr);
  for (size_t i = 0; i < data.records.size(); ++i)
    found.positions.push_back(positions_at(request.places, data.records[i], made.encoded[i]));
  std::optional<StreamMeans> streams = mean_streams(session, made.jobs, found.positions, request.run);
  if (!streams) {
    found.interrupted = true;
    return found;
  }
  found.streams = std::move(*streams);
  std::optional<RouterSpace> space;
  std::optional<int32_t> of_layer;
  for (int64_t l = 0; l < session.model.n_layers(); ++l) {
    if (const auto reader = reading_router(session.model, l); reader != of_layer) {
      of_layer = reader;
      if (reader)
        space.emplace(session, *reader);
      else
        space.reset();
    }
    found.layers.push_back(layer_direction(session, found, request, l, space));
    const LayerDirection &now = found.layers.back(), &best = found.layers[static_cast<size_t>(found.chosen)];
    if (now.auc > best.auc || (now.auc == best.auc && now.relative > best.relative)) found.chosen = l;
  }
  return found;
}

void write_extraction(const std::filesystem::path& dir, const Extraction& found, const ExtractRequest& request,
                      const Session& session) {
  made_directory(dir);
  const int64_t d = found.streams.d;
  const std::vector<size_t> used = found.data.of_set(0);
  std::vector<safetensors::TensorHeader> vectors, rows;
  for (size_t l = 0; l < found.layers.size(); ++l) {
    const std::string name = "layer." + std::to_string(l) + ".resid_out";
    for (const char* part : {"", ".router", ".rest"}) vectors.push_back({name + part, "F32", {d}});
    rows.push_back({name, "F32", {static_cast<int64_t>(used.size()), d}});
  }
  const std::map<std::string, std::string> metadata = {{"model_hash", session.model_hash}};
  safetensors::Writer directions(dir / directions_file, vectors, metadata);
  safetensors::Writer streams(dir / streams_file, rows, metadata);
  CsvWriter selection({"layer", "norm", "relative", "router_layer", "router_share", "auc"});
  for (size_t l = 0; l < found.layers.size(); ++l) {
    const LayerDirection& layer = found.layers[l];
    for (const std::vector<double>* part : {&layer.whole, &layer.router, &layer.rest}) {
      const std::vector<float> values = floats_of(*part);
      directions.write(values.data(), values.size() * sizeof(float));
    }
    for (const size_t i : used) {
      const std::span<const float> row = found.streams.row(i, static_cast<int64_t>(l));
      streams.write(row.data(), row.size() * sizeof(float));
    }
    const double squares = dot(layer.whole, std::span<const double>(layer.whole));
    selection.cell(static_cast<int64_t>(l)).cell(std::sqrt(squares)).cell(layer.relative);
    if (layer.router_layer)
      selection.cell(int64_t{*layer.router_layer})
          .cell(dot(layer.router, std::span<const double>(layer.router)) / squares);
    else
      selection.cell("").cell("");
    selection.cell(layer.auc);
    selection.end_row();
  }
  directions.finish();
  streams.finish();
  write_file_atomically(dir / selection_file, selection.text());
  json::Value records = json::Value::array(), names = json::Value::array();
  for (size_t i = 0; i < found.data.records.size(); ++i) {
    const Record& record = found.data.records[i];
    records.push_back(json::Value::object()
                          .set("id", record.id)
                          .set("condition", record.condition)
                          .set("set", static_cast<int64_t>(found.data.sets[i]))
                          .set("example", found.data.examples[i])
                          .set("prompt", line_prompt_hash(record.source)));
  }
  for (const std::string& name : request.split.names) names.push_back(name);
  json::Value split = json::Value::object().set("key", request.split.key).set("names", std::move(names));
  write_file_atomically(dir / direction_summary_file,
                        json::dump(json::Value::object()
                                       .set("schema", direction_schema)
                                       .set("model", session.label)
                                       .set("model_hash", session.model_hash)
                                       .set("weights", request.weights)
                                       .set("reference", request.input)
                                       .set("contrast", request.contrast.one + ":" + request.contrast.other)
                                       .set("at", request.places.text)
                                       .set("method", std::string(estimator_name(request.estimator)))
                                       .set("split", std::move(split))
                                       .set("seed", request.seed)
                                       .set("layer", found.chosen)
                                       .set("layer_chosen_by", "auc on the set " + request.split.names[1])
                                       .set("records", std::move(records)),
                                   1) +
                            "\n");
}

}  // namespace signalbox::eval
