#include "eval/causal/patch_study.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "eval/statistics/resampling.h"
#include "eval/store/line_log.h"
#include "eval/store/merge.h"
#include "eval/store/work_directory.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

namespace fs = std::filesystem;

constexpr const char* refused_key = "refused";  // refused_ratios()
constexpr const char* finished_pairs = "pairs.jsonl";
constexpr const char* patch_journal = "journal.jsonl";
constexpr const char* patch_files[] = {"patch.csv", "flips.csv", "summary.json", finished_pairs, patch_journal};

std::string line_of(const CausalPair& pair, const PairValues& values, const PatchedPair& patched) {
  json::Value rows = json::Value::array();
  for (const PatchRow& row : patched.rows) {
    json::Value cells = json::Value::array();
    cells.push_back(static_cast<int64_t>(row.point)).push_back(row.unit).push_back(row.effect);
    rows.push_back(std::move(cells.push_back(row.routes).push_back(row.flipped)));
  }
  return json::dump(json::Value::object()
                        .set("pair", pair.name)
                        .set("clean", values.clean)
                        .set("corrupt", values.corrupt)
                        .set("cells", patched.cells)
                        .set("unchanged", patched.unchanged)
                        .set("undefined", patched.undefined)
                        .set("layers_run", patched.layers_run)
                        .set("layers_of_brute_force", patched.layers_of_brute_force)
                        .set("rows", std::move(rows)));
}

// A line of pairs.jsonl, read back.
struct PairLine {
  std::string name;
  PairValues values;
  PatchedPair patched;
};

PairLine pair_of(const std::string& line, const std::string& where) {
  const json::Value value = json::parse(line, where);
  const json::Ref ref(value, where);
  PairLine read;
  read.name = ref.at("pair").string();
  read.values = {ref.at("clean").number(), ref.at("corrupt").number()};
  PatchedPair& patched = read.patched;
  patched.cells = ref.at("cells").size();
  patched.unchanged = ref.at("unchanged").size();
  patched.undefined = ref.at("undefined").size();
  patched.layers_run = ref.at("layers_run").number();
  patched.layers_of_brute_force = ref.at("layers_of_brute_force").number();
  for (const json::Ref& row : ref.at("rows").items())
    patched.rows.push_back(
        {static_cast<size_t>(row[0].size()), row[1].string(), row[2].number(), row[3].size(), row[4].size()});
  return read;
}

// What the summary says of the request, and the places of what take_results() adds.
json::Value summary_of(const Session& session, const PatchStudy& study) {
  const PatchRequest& request = study.request;
  json::Value points = json::Value::array(), left_out = json::Value::array(), with = json::Value::array();
  for (const PointAt& at : request.points) points.push_back(point_name(at.point, at.layer));
  for (const std::string& name : study.left_out) left_out.push_back(name);
  for (const NamedExchange& named : request.with) with.push_back(named.text);
  json::Value summary = json::Value::object();
  summary.set("schema", patch_schema)
      .set("metric", std::string(metric_name(request.metric)))
      .set("direction", request.denoising ? "denoising" : "noising")
      .set("ablation", "resample: the value that the other record of the pair has")
      .set("reference", "the pair's other record")
      .set("split", json::Value())
      .set("seed", study.seed)
      .set("resamples", int64_t{default_resamples})
      .set("model", session.label)
      .set("model_hash", session.model_hash)
      .set("records", json::Value())
      .set("pairs", json::Value())
      .set("values", json::Value())
      .set("by", std::string(patch_by_name(request.by)))
      .set("points", std::move(points))
      .set("with", std::move(with))
      .set("left_out", std::move(left_out))
      .set("span", request.span);
  return summary;
}

// Estimates over the pairs into the outcome, and into the summary what was found.
json::Value take_results(const std::vector<PatchedPair>& results, const PatchRequest& request, uint64_t seed,
                         int n_threads, json::Value summary, PatchOutcome& outcome) {
  double layers = 0, of_brute_force = 0;
  for (const PatchedPair& patched : results) {
    outcome.cells += patched.cells;
    outcome.unchanged += patched.unchanged;
    outcome.undefined += patched.undefined;
    layers += patched.layers_run;
    of_brute_force += patched.layers_of_brute_force;
  }
  outcome.share_of_brute_force = of_brute_force > 0 ? layers / of_brute_force : 0;
  outcome.rows = estimate_patches(outcome.selected, results, request.denoising, absent_contributions(results, request),
                                  seed, n_threads);
  const SelectedPairs& selected = outcome.selected;
  json::Value values = json::Value::array();
  for (size_t i = 0; i < selected.pairs.size(); ++i)
    values.push_back(json::Value::object()
                         .set("pair", selected.pairs[i].name)
                         .set("clean", selected.values[i].clean)
                         .set("corrupt", selected.values[i].corrupt));
  summary.set("records", static_cast<int64_t>(2 * (selected.pairs.size() + selected.dropped.size())))
      .set("pairs", pairs_summary(selected))
      .set("values", std::move(values))
      .set("cells", outcome.cells)
      .set("unchanged_cells", outcome.unchanged)
      .set("experts_without_counterpart", outcome.undefined)
      .set("share_of_brute_force", outcome.share_of_brute_force);
  return summary;
}

// Of a directory that came to its end.
struct FinishedShard {
  json::Value summary;
  std::vector<std::string> names;  // of all pairs
  std::vector<std::string> dropped;
  std::map<std::string, std::string> lines;  // of pairs.jsonl, by pair
};

FinishedShard read_shard(const fs::path& dir, const Manifest& manifest) {
  FinishedShard shard;
  shard.names = manifest.layout->records;
  shard.summary = json::parse_file(dir / "summary.json");
  const json::Ref summary(shard.summary, (dir / "summary.json").string());
  for (const json::Ref& name : summary.at("pairs").at("dropped").items()) shard.dropped.push_back(name.string());
  LineReader reader(dir / finished_pairs);
  for (std::string_view line; reader.next(line);) {
    const std::string text(line);
    shard.lines[pair_of(text, reader.where()).name] = text;
  }
  return shard;
}

// Pair k of all is pair k / n of shard k mod n.
void write_merged(const fs::path& dir, const std::vector<FinishedShard>& shards) {
  PatchOutcome outcome;
  std::vector<PatchedPair> results;
  size_t total = 0;
  for (const FinishedShard& shard : shards) total += shard.names.size();
  AtomicFile lines(dir / finished_pairs);
  for (size_t k = 0; k < total; ++k) {
    const FinishedShard& shard = shards[k % shards.size()];
    const std::string& name = shard.names.at(k / shards.size());
    if (std::find(shard.dropped.begin(), shard.dropped.end(), name) != shard.dropped.end()) {
      outcome.selected.dropped.push_back(name);
      continue;
    }
    const auto line = shard.lines.find(name);
    if (line == shard.lines.end())
      throw Error(finished_pairs, "expected a line of pair \"" + name + "\" in its shard, found none");
    PairLine read = pair_of(line->second, finished_pairs);
    lines.write(line->second + "\n");
    CausalPair& pair = outcome.selected.pairs.emplace_back();
    pair.name = name;
    outcome.selected.values.push_back(read.values);
    results.push_back(std::move(read.patched));
  }
  require_a_pair(outcome.selected, "merge");
  lines.commit();
  json::Value summary = json::Value::object();
  for (const auto& [key, value] : shards.front().summary.members())
    if (key != refused_key) summary.set(key, value);
  const json::Ref of(summary, "summary.json");
  PatchRequest request;
  request.denoising = of.at("direction").string() == "denoising";
  for (const json::Ref& name : of.at("points").items()) {
    const std::optional<PointAt> at = parse_point(name.string());
    if (!at) name.fail("expected the name of a point, found \"" + name.string() + "\"");
    request.points.push_back(*at);
  }
  const auto seed = static_cast<uint64_t>(of.at("seed").value().integer());
  json::Value whole = take_results(results, request, seed, 1, summary, outcome);
  write_patch_tables(dir, outcome.rows, request, std::move(whole));
}

}  // namespace

PatchOutcome conduct_patch(const Session& session, const RecordJobs& made, std::vector<CausalPair> pairs,
                           const PatchStudy& study) {
  PatchOutcome outcome;
  Manifest manifest = study.manifest;
  manifest.schema = patch_schema;
  std::vector<CausalPair> own;
  Layout layout;
  layout.seeds = {study.seed};
  layout.interventions = {study.request.denoising ? "denoising" : "noising"};
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (!manifest.shard.has(static_cast<int64_t>(i))) continue;
    layout.records.push_back(pairs[i].name);
    own.push_back(std::move(pairs[i]));
  }
  layout.samples.assign(own.size(), 1);
  layout.index();
  manifest.layout = std::move(layout);
  check_work(study.dir, manifest);
  outcome.selected = select_pairs(session, made, std::move(own), study.keep_all, study.input, study.request.interrupted,
                                  !manifest.shard.whole());
  WorkDirectory directory(study.dir, manifest, patch_files);
  outcome.was_complete = directory.complete() && fs::exists(study.dir / "summary.json");
  if (directory.complete() && !outcome.was_complete) directory.reopen();
  const SelectedPairs& selected = outcome.selected;
  std::vector<PatchedPair> results;
  if (!selected.interrupted) {
    LineRules rules;
    rules.n_lines = static_cast<int64_t>(selected.pairs.size());
    rules.name = [&](int64_t line) { return "pair \"" + selected.pairs[static_cast<size_t>(line)].name + "\""; };
    rules.check_line = [&](int64_t line, const json::Ref& value) {
      if (const json::Ref name = value.at("pair"); name.string() != selected.pairs[static_cast<size_t>(line)].name)
        name.fail("expected \"" + selected.pairs[static_cast<size_t>(line)].name + "\", found \"" + name.string() +
                  "\"");
    };
    LineLog log(study.dir / finished_pairs, study.dir / patch_journal, rules);
    const auto n_points = static_cast<int64_t>(study.request.points.size());
    if (study.on_kept && log.n_known() > 0) study.on_kept(log.n_known() * n_points);
    for (size_t i = 0; i < selected.pairs.size(); ++i) {
      const auto line = static_cast<int64_t>(i);
      if (log.has(line)) {
        results.push_back(pair_of(log.line(line), (study.dir / finished_pairs).string()).patched);
        continue;
      }
      PatchedPair patched = patch_pair(session, made, selected.pairs[i], study.request, line * n_points);
      if (patched.interrupted) break;
      log.put(line, line_of(selected.pairs[i], selected.values[i], patched));
      results.push_back(std::move(patched));
    }
    log.sync();
    if (log.whole()) log.finish();
  }
  if (selected.interrupted || results.size() < selected.pairs.size()) {
    directory.finish(RunStatus::interrupted);
    outcome.interrupted = true;
    return outcome;
  }
  json::Value summary = take_results(results, study.request, study.seed, session.backend->n_threads(),
                                     summary_of(session, study), outcome);
  if (outcome.was_complete) return outcome;
  write_patch_tables(study.dir, outcome.rows, study.request, std::move(summary));
  directory.finish(RunStatus::complete);
  return outcome;
}

void merge_patches(const fs::path& out, std::span<const fs::path> shards) {
  MergeOptions options;
  options.schema = patch_schema;
  options.has_samples = false;
  options.common.clear();
  options.of_records.clear();
  options.finalize = [&](const fs::path& dir) {
    std::vector<FinishedShard> parts(shards.size());
    for (const fs::path& shard : shards) {
      const std::optional<Manifest> manifest = Manifest::read(shard, patch_schema);
      parts.at(static_cast<size_t>(manifest->shard.index)) = read_shard(shard, *manifest);
    }
    write_merged(dir, parts);
  };
  merge_runs(out, shards, options);
}

}  // namespace signalbox::eval
