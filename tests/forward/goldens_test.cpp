// The forward of every family against transformers at every probe point, in order of execution; edited runs against the
// independent implementation of tests/goldens/reference_edits.py; greedy decoding; log-probabilities.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "base/safetensors.h"
#include "engine/runner.h"
#include "eval/data/records.h"
#include "loaders/model/load.h"
#include "tests/memory_sink.h"
#include "tests/support.h"
#include "tests/tolerances.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
namespace fs = std::filesystem;

const fs::path goldens = test::source_dir() / "tests/goldens";

std::vector<fs::path> case_directories() {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(goldens))
    if (fs::exists(entry.path() / "base.safetensors")) found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

std::vector<float> floats(const safetensors::File& file, const std::string& name) {
  const auto& info = file.at(name);
  std::vector<float> out(info.elements());
  if (info.dtype == "I32") {
    const auto* data = reinterpret_cast<const int32_t*>(file.data(info));
    std::copy(data, data + out.size(), out.begin());
  } else {
    REQUIRE(info.dtype == "F32");
    std::memcpy(out.data(), file.data(info), out.size() * 4);
  }
  return out;
}

// Patterns [T, n_heads, T] as MemorySink keeps them: what is behind a token's own position must be 0 and goes.
std::vector<float> seen_shares(const safetensors::File& file, const std::string& name) {
  const std::vector<float> all = floats(file, name);
  const int64_t n_tokens = file.at(name).shape[0], heads = file.at(name).shape[1];
  std::vector<float> seen;
  for (int64_t t = 0; t < n_tokens; ++t)
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t k = 0; k < n_tokens; ++k) {
        const float share = all[static_cast<size_t>((t * heads + h) * n_tokens + k)];
        if (k <= t) seen.push_back(share);
        REQUIRE((k <= t || share == 0));
      }
  return seen;
}

// A model with a backend, ready to run.
struct Ready {
  LoadedModel loaded;
  std::unique_ptr<Backend> backend;
  ModelShape shape;
  explicit Ready(const fs::path& directory)
      : loaded(load_model(directory.string())), backend(make_cpu_backend({})), shape(probe_shape(loaded.model)) {}
};

struct Ran {
  std::map<std::string, test::MemorySink::Values> points;
  Result result;
};

Ran run(Ready& model, const EncodedRecord& record, std::shared_ptr<const EditPlan> plan, const std::string& points,
        int64_t max_new, bool score = false) {
  Job job;
  job.prompt = record.prompt;
  if (score)
    job.task = Score{};
  else
    job.task = Generate{max_new, {}};
  job.plan = plan;
  job.spans = record.spans;
  Forward forward(*model.backend, model.loaded.model, model.loaded.weights, plan ? plan->max_slots() : 0);
  test::MemorySink sink(PointSet::parse(points, model.shape));
  Ran out;
  RunEvents events;
  events.on_done = [&](Result result) { out.result = std::move(result); };
  run_jobs(forward, {job}, RunOptions{}, events, points == "embed" ? nullptr : &sink);
  out.points = std::move(sink.samples[0]);
  return out;
}

// Largest difference, and a description of the worst element.
struct Compared {
  double worst = 0;
  std::string text;
};
Compared compare(const std::vector<float>& expected, const std::vector<float>& found) {
  Compared c;
  if (expected.size() != found.size()) {
    c.worst = INFINITY;
    c.text = std::to_string(expected.size()) + " values expected, " + std::to_string(found.size()) + " found";
    return c;
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(static_cast<double>(expected[i]) - found[i]);
    if (!(difference <= c.worst)) {
      c.worst = std::isnan(difference) ? INFINITY : difference;
      c.text = "element " + std::to_string(i) + ": expected " + std::to_string(expected[i]) + ", found " +
               std::to_string(found[i]);
    }
  }
  return c;
}

std::vector<EncodedRecord> records_of(const fs::path& directory) {
  const auto records = read_records((directory / "records.jsonl").string());
  std::vector<EncodedRecord> encoded;
  for (const Record& record : records) encoded.push_back(encode_record(record, {}, span_names(records)));
  return encoded;
}

}  // namespace

TEST_CASE("goldens: every family at every probe point") {
  const auto cases = case_directories();
  REQUIRE(cases.size() >= 10);
  for (const fs::path& directory : cases) {
    CAPTURE(directory.filename().string());
    Ready model(directory / "model");
    const auto records = records_of(directory);
    for (size_t r = 0; r < records.size(); ++r) {
      const auto file = safetensors::File::open(directory / (r == 0 ? "base.safetensors" : "p1.safetensors"));
      std::shared_ptr<const safetensors::File> inner;
      if (r == 0 && fs::exists(directory / "inner.safetensors"))
        inner = safetensors::File::open(directory / "inner.safetensors");
      const Ran ran = run(model, records[r], nullptr, "*", 0);
      // In order of execution, so that the first failure is where the forward first goes wrong.
      for (const PointAt& at : PointSet::parse("*", model.shape).all()) {
        const std::string name = point_name(at.point, at.layer);
        const safetensors::File* golden = file->find(name) ? file.get() : nullptr;
        if (!golden && inner && inner->find(name)) golden = inner.get();
        // Where both files are there, every point has its golden but for a difference of logits, and for numbers that
        // are made of other points (expert_shares_test.cpp).
        const bool derived = at.point == Point::router_margin || at.point == Point::expert_norm ||
                             at.point == Point::expert_update_share || at.point == Point::expert_direct;
        REQUIRE_MESSAGE((golden || !inner || derived), name);
        if (!golden) continue;
        REQUIRE_MESSAGE(ran.points.contains(name), name);
        const bool shares = point_info(at.point).positions();
        const Compared c =
            compare(shares ? seen_shares(*golden, name) : floats(*golden, name), ran.points.at(name).data);
        const double allowed = name.ends_with(".ids") ? 0 : test::tolerance::forward;
        INFO(name << " (" << c.text << ")");
        REQUIRE(c.worst <= allowed);
      }
    }
  }
}

TEST_CASE("goldens: log-probabilities and greedy decoding") {
  for (const fs::path& directory : case_directories()) {
    CAPTURE(directory.filename().string());
    Ready model(directory / "model");
    const auto records = records_of(directory);
    for (size_t r = 0; r < records.size(); ++r) {
      const auto file = safetensors::File::open(directory / (r == 0 ? "base.safetensors" : "p1.safetensors"));
      const std::vector<float> expected = floats(*file, "logprobs");
      const Ran scored = run(model, records[r], nullptr, "embed", 0, true);
      const std::vector<float> found(scored.result.logprobs.begin(), scored.result.logprobs.end());
      const Compared c = compare(expected, found);
      INFO(c.text);
      CHECK(c.worst <= test::tolerance::forward);

      const std::vector<float> greedy = floats(*file, "greedy");
      const Ran generated = run(model, records[r], nullptr, "embed", static_cast<int64_t>(greedy.size()));
      CHECK(std::vector<float>(generated.result.tokens.begin(), generated.result.tokens.end()) == greedy);
    }
  }
}

// Cases that come with edited runs; `folder` holds their specs.
std::vector<fs::path> edited_cases(const std::string& folder = "edits") {
  std::vector<fs::path> found;
  for (const fs::path& directory : case_directories())
    if (fs::exists(directory / folder / "index.json")) found.push_back(directory);
  return found;
}

// Runs every spec of `folder` in all cases that have it, and returns how many there were.
int check_edited_runs(const std::string& folder, const std::string& values) {
  int checked = 0;
  for (const fs::path& directory : edited_cases(folder)) {
    CAPTURE(directory.filename().string());
    Ready model(directory / "model");
    const auto records = records_of(directory / folder);
    const auto file = safetensors::File::open(directory / values);
    std::map<std::string, uint64_t> unedited;
    for (const EncodedRecord& record : records)
      unedited[record.prompt->id] = run(model, record, nullptr, "embed", 0, true).result.logits_hash;
    const json::Value index = json::parse_file(directory / folder / "index.json");
    for (const json::Ref& row : json::Ref(index, "index.json").items()) {
      const std::string name = row.at("name").string();
      CAPTURE(name);
      const auto record = std::find_if(records.begin(), records.end(), [&](const EncodedRecord& r) {
        return r.prompt->id == row.at("record").string();
      });
      REQUIRE(record != records.end());
      std::shared_ptr<const EditPlan> plan;
      Ran ran;
      CHECK_NOTHROW(plan = EditPlan::load(directory / folder / (name + ".json"), model.shape, 0));
      if (!plan) continue;
      CHECK_NOTHROW(ran = run(model, *record, plan, "*router.ids,*router.weights,logits", row.at("generate").size()));
      if (ran.points.empty()) continue;
      ++checked;
      if (row.at("noop").boolean())
        CHECK(run(model, *record, plan, "embed", 0, true).result.logits_hash == unedited[record->prompt->id]);
      // The golden tensors stack the layers: [T, L, k].
      for (const std::string tensor : {"router.ids", "router.original_ids", "router.weights"}) {
        const auto* info = file->find(name + "/" + tensor);
        if (!info) continue;
        const std::vector<float> expected = floats(*file, name + "/" + tensor);
        const auto layers = model.shape.moe_layers();
        const int64_t n_tokens = info->shape[0], slots = info->shape[2];
        std::vector<float> found;
        for (int64_t t = 0; t < n_tokens; ++t)
          for (int32_t l : layers) {
            const auto& values = ran.points.at("layer." + std::to_string(l) + "." + tensor);
            REQUIRE(values.rows() == n_tokens);
            for (int64_t i = 0; i < slots; ++i)
              found.push_back(i < values.width             ? values.data[t * values.width + i]
                              : tensor == "router.weights" ? 0.f
                                                           : -1.f);
          }
        const Compared c = compare(expected, found);
        INFO(tensor << " " << c.text);
        CHECK(c.worst <= (tensor == "router.weights" ? test::tolerance::edited_weight : 0.0));
      }
      const auto& shape = file->at(name + "/logits").shape;
      const auto& logits = ran.points.at("logits");
      const Compared c = compare(floats(*file, name + "/logits"),
                                 std::vector<float>(logits.data.end() - shape[0] * shape[1], logits.data.end()));
      INFO("logits " << c.text);
      CHECK(c.worst <= test::tolerance::edited);
      if (file->find(name + "/generated"))
        CHECK(std::vector<float>(ran.result.tokens.begin(), ran.result.tokens.end()) ==
              floats(*file, name + "/generated"));
    }
  }
  return checked;
}

TEST_CASE("goldens: edited runs") { CHECK(check_edited_runs("edits", "edits.safetensors") > 300); }

TEST_CASE("goldens: runs edited inside attention and where router and experts read") {
  CHECK(check_edited_runs("inner", "inner/edited.safetensors") > 150);
}

TEST_CASE("goldens: edits that cannot be are refused") {
  int refused = 0;
  for (const fs::path& directory : edited_cases()) {
    CAPTURE(directory.filename().string());
    Ready model(directory / "model");
    const auto records = records_of(directory / "edits");
    const json::Value errors = json::parse_file(directory / "edits/errors.json");
    for (const json::Ref& row : json::Ref(errors, "errors.json").items()) {
      CAPTURE(row.at("name").string());
      CAPTURE(row.at("why").string());
      const auto record = std::find_if(records.begin(), records.end(), [&](const EncodedRecord& r) {
        return r.prompt->id == row.at("record").string();
      });
      REQUIRE(record != records.end());
      const auto attempt = [&] {
        const auto plan = EditPlan::parse(row.at("spec"), directory / "edits", model.shape, 0);
        plan->require_spans(std::vector<std::string>{"doc", "question"});
        run(model, *record, plan, "embed", 0, true);
      };
      CHECK_THROWS_AS(attempt(), Error);
      ++refused;
    }
  }
  CHECK(refused > 100);
}
