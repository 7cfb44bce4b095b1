// Reading and writing what stands in a directory of directions.
#include <algorithm>
#include <cstring>
#include <set>

#include "base/csv.h"
#include "base/error.h"
#include "base/files.h"
#include "base/safetensors.h"
#include "eval/data/prompt_hash.h"
#include "eval/direction/validate.h"
#include "eval/store/staged_files.h"

namespace signalbox::eval {

namespace {

std::vector<float> read_tensor(const safetensors::File& file, const std::string& name, int64_t elements) {
  const safetensors::TensorInfo& tensor = file.at(name);
  if (tensor.dtype != "F32" || tensor.elements() != elements)
    throw Error(file.name(), name + ": expected " + std::to_string(elements) + " values of F32, found " +
                                 std::to_string(tensor.elements()) + " of " + tensor.dtype);
  std::vector<float> values(static_cast<size_t>(elements));
  std::memcpy(values.data(), file.data(tensor), values.size() * sizeof(float));
  return values;
}

}  // namespace

StoredDirections read_directions(const std::filesystem::path& dir) {
  StoredDirections stored;
  stored.dir = dir;
  const std::filesystem::path place = dir / direction_summary_file;
  if (!std::filesystem::exists(place))
    throw Error(dir.string(), "expected a directory of signalbox direction extract (summary.json), found none");
  stored.summary = json::parse_file(place);
  const json::Ref summary(stored.summary, place.string());
  if (const auto schema = summary.at("schema"); schema.string() != direction_schema)
    schema.fail_type("\"" + std::string(direction_schema) + "\"");
  stored.model = summary.at("model").string();
  stored.model_hash = summary.at("model_hash").string();
  stored.contrast = parse_contrast(summary.at("contrast").string(), place.string() + ": contrast");
  stored.places = parse_places(summary.at("at").string(), place.string() + ": at");
  stored.estimator = parse_estimator(summary.at("method").string(), place.string() + ": method");
  std::vector<std::string> ids;
  for (const json::Ref& record : summary.at("records").items()) {
    const int64_t set = record.at("set").integer(0, 2);
    if (set < 2) stored.used_prompts.push_back(record.at("prompt").string());
    if (set > 0) continue;
    stored.labels.push_back(record.at("condition").string() == stored.contrast.one ? 1 : -1);
    stored.examples.push_back(record.at("example").integer());
  }
  const auto vectors = safetensors::File::open(dir / directions_file),
             streams = safetensors::File::open(dir / streams_file);
  while (vectors->find("layer." + std::to_string(stored.n_layers) + ".resid_out")) ++stored.n_layers;
  if (stored.n_layers == 0) throw Error(vectors->name(), "expected the tensor layer.0.resid_out, found none");
  stored.chosen = summary.at("layer").integer(0, stored.n_layers - 1);
  stored.d = vectors->at("layer.0.resid_out").elements();
  const auto n = static_cast<int64_t>(stored.labels.size());
  stored.streams = {n, stored.n_layers, stored.d,
                    std::vector<float>(static_cast<size_t>(n * stored.n_layers * stored.d))};
  for (int64_t l = 0; l < stored.n_layers; ++l) {
    const std::string name = "layer." + std::to_string(l) + ".resid_out";
    stored.whole.push_back(read_tensor(*vectors, name, stored.d));
    stored.router.push_back(read_tensor(*vectors, name + ".router", stored.d));
    stored.rest.push_back(read_tensor(*vectors, name + ".rest", stored.d));
    const std::vector<float> rows = read_tensor(*streams, name, n * stored.d);
    for (int64_t i = 0; i < n; ++i)
      std::copy_n(rows.begin() + i * stored.d, stored.d,
                  stored.streams.values.begin() + (i * stored.n_layers + l) * stored.d);
  }
  return stored;
}

Labelled held_out_records(const StoredDirections& stored, const std::vector<Record>& records, const std::string& where,
                          int64_t& left_out) {
  const std::set<std::string> used(stored.used_prompts.begin(), stored.used_prompts.end());
  std::vector<Record> kept;
  left_out = 0;
  for (const Record& record : records) {
    const bool known = used.count(line_prompt_hash(record.source)) > 0;
    left_out += known;
    if (!known) kept.push_back(record);
  }
  if (kept.empty())
    throw Error(where, "expected records whose prompts had no part in the directions, found none among " +
                           std::to_string(records.size()));
  return label_records(kept, stored.contrast, where);
}

void write_validation(const StoredDirections& stored, const Validation& found, const ValidateRequest& request) {
  StagedFiles files(stored.dir, {validation_file, steering_file, direction_summary_file});
  CsvWriter table({"layer", "part", "kind", "dose", "auc", "effect", "ci_lo", "ci_hi", "p"});
  for (const ValidationRow& row : found.rows) {
    table.cell(row.layer).cell(row.part).cell(row.kind).cell(row.dose).cell(row.auc).cell(row.effect);
    table.cell(row.ci.lo).cell(row.ci.hi).cell(row.p);
    table.end_row();
  }
  write_file_atomically(files.path() / validation_file, table.text());
  CsvWriter steering({"layer", "part", "dose", "condition", "records", "effect", "routes_held", "routes_alone",
                      "interaction", "jaccard_next", "jaccard", "kl", "opposite"});
  for (const SteeringRow& row : found.steering) {
    steering.cell(row.layer).cell(row.part).cell(row.dose).cell(row.condition).cell(row.records).cell(row.effect);
    steering.cell(row.routes_held).cell(row.routes_alone).cell(row.interaction);
    steering.cell(row.jaccard_next).cell(row.jaccard).cell(row.kl).cell(row.opposite);
    steering.end_row();
  }
  write_file_atomically(files.path() / steering_file, steering.text());
  json::Value layers = json::Value::array(), doses = json::Value::array(), summary = stored.summary;
  for (const int64_t l : request.layers) layers.push_back(l);
  for (const double dose : request.doses) doses.push_back(dose);
  summary.set("validation", json::Value::object()
                                .set("metric", std::string(metric_name(request.metric)))
                                .set("ablation", "add and take away along the vector, at resid_out")
                                .set("reference", request.input)
                                .set("records", found.records)
                                .set("left_out", found.left_out)
                                .set("layers", std::move(layers))
                                .set("doses", std::move(doses))
                                .set("controls", request.controls)
                                .set("resamples", request.resamples)
                                .set("seed", request.seed)
                                .set("auc_p", found.auc_p));
  write_file_atomically(files.path() / direction_summary_file, json::dump(summary, 1) + "\n");
  files.commit();
}

}  // namespace signalbox::eval
