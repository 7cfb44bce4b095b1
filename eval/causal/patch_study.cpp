#include "eval/causal/patch_study.h"

#include "base/error.h"
#include "eval/statistics/resampling.h"
#include "eval/store/line_log.h"
#include "eval/store/work_directory.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

namespace fs = std::filesystem;

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

PatchedPair pair_of(const std::string& line, const std::string& where) {
  const json::Value value = json::parse(line, where);
  const json::Ref ref(value, where);
  PatchedPair patched;
  patched.cells = ref.at("cells").size();
  patched.unchanged = ref.at("unchanged").size();
  patched.undefined = ref.at("undefined").size();
  patched.layers_run = ref.at("layers_run").number();
  patched.layers_of_brute_force = ref.at("layers_of_brute_force").number();
  for (const json::Ref& row : ref.at("rows").items())
    patched.rows.push_back(
        {static_cast<size_t>(row[0].size()), row[1].string(), row[2].number(), row[3].size(), row[4].size()});
  return patched;
}

json::Value summary_of(const Session& session, const RecordJobs& made, const PatchStudy& study,
                       const PatchOutcome& outcome) {
  const PatchRequest& request = study.request;
  json::Value points = json::Value::array(), left_out = json::Value::array(), values = json::Value::array(),
              with = json::Value::array();
  for (const PointAt& at : request.points) points.push_back(point_name(at.point, at.layer));
  for (const std::string& name : study.left_out) left_out.push_back(name);
  for (size_t i = 0; i < outcome.selected.pairs.size(); ++i)
    values.push_back(json::Value::object()
                         .set("pair", outcome.selected.pairs[i].name)
                         .set("clean", outcome.selected.values[i].clean)
                         .set("corrupt", outcome.selected.values[i].corrupt));
  for (const NamedExchange& named : request.with) with.push_back(named.text);
  json::Value summary = json::Value::object();
  summary.set("schema", "signalbox.patch/1")
      .set("metric", std::string(metric_name(request.metric)))
      .set("direction", request.denoising ? "denoising" : "noising")
      .set("ablation", "resample: the value that the other record of the pair has")
      .set("reference", "the pair's other record")
      .set("split", json::Value())
      .set("seed", study.seed)
      .set("resamples", int64_t{default_resamples})
      .set("model", session.label)
      .set("model_hash", session.model_hash)
      .set("records", static_cast<int64_t>(made.jobs.size()))
      .set("pairs", pairs_summary(outcome.selected))
      .set("values", std::move(values))
      .set("by", std::string(patch_by_name(request.by)))
      .set("points", std::move(points))
      .set("with", std::move(with))
      .set("left_out", std::move(left_out))
      .set("span", request.span)
      .set("cells", outcome.cells)
      .set("unchanged_cells", outcome.unchanged)
      .set("experts_without_counterpart", outcome.undefined)
      .set("share_of_brute_force", outcome.share_of_brute_force);
  return summary;
}

}  // namespace

PatchOutcome conduct_patch(const Session& session, const RecordJobs& made, std::vector<CausalPair> pairs,
                           const PatchStudy& study) {
  PatchOutcome outcome;
  check_work(study.dir, study.manifest);
  outcome.selected =
      select_pairs(session, made, std::move(pairs), study.keep_all, study.input, study.request.interrupted);
  WorkDirectory directory(study.dir, study.manifest, patch_files);
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
        results.push_back(pair_of(log.line(line), (study.dir / finished_pairs).string()));
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
  double layers = 0, of_brute_force = 0;
  for (const PatchedPair& patched : results) {
    outcome.cells += patched.cells;
    outcome.unchanged += patched.unchanged;
    outcome.undefined += patched.undefined;
    layers += patched.layers_run;
    of_brute_force += patched.layers_of_brute_force;
  }
  outcome.share_of_brute_force = of_brute_force > 0 ? layers / of_brute_force : 0;
  outcome.rows =
      estimate_patches(selected, results, study.request.denoising, absent_contributions(results, study.request),
                       study.seed, session.backend->n_threads());
  if (outcome.was_complete) return outcome;
  write_patch_tables(study.dir, outcome.rows, study.request, summary_of(session, made, study, outcome));
  directory.finish(RunStatus::complete);
  return outcome;
}

}  // namespace signalbox::eval
