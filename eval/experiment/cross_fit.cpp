#include "eval/experiment/cross_fit.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/csv.h"
#include "base/files.h"
#include "eval/data/examples.h"
#include "eval/experiment/collect.h"
#include "eval/experiment/run_context.h"
#include "eval/experiment/schedule.h"
#include "eval/findings/audit.h"
#include "eval/findings/cross_fit.h"
#include "eval/findings/metrics_file.h"
#include "eval/findings/results.h"
#include "eval/findings/specification_curve.h"
#include "eval/findings/tables.h"
#include "eval/store/work_directory.h"

namespace signalbox::eval {

namespace fs = std::filesystem;

fs::path deal_directory(const fs::path& dir, int64_t deal) { return dir / "deals" / std::to_string(deal); }

Experiment experiment_of_deal(const Experiment& experiment, const Deal& deal) {
  Experiment out = experiment;
  out.spec.cross_fit.reset();
  out.spec.split = SplitSpec{"deal", "detect", "", "test"};
  out.splits = {deal.detect, {}, deal.test, 0};
  out.deals.clear();
  out.notes.clear();
  return out;
}

RunEnd conduct_cross_fit(const Experiment& experiment, const Session& session, const ConductOptions& options,
                         const ConductEvents& events) {
  const ExperimentSpec& spec = experiment.spec;
  if (!options.shard.whole())
    throw UsageError("--shard",
                     "expected none for a run with \"cross_fit\", whose deals are made one after the other, found " +
                         options.shard.text());
  Manifest manifest;
  manifest.identity = options.identity;
  manifest.identity.set("spec", resolved_json(spec));
  manifest.info = options.info;
  WorkDirectory directory(options.out, std::move(manifest));
  if (directory.complete()) {
    if (fs::exists(options.out / "metrics.json") && is_cross_fit_directory(options.out)) return RunEnd::was_complete;
    directory.reopen();
  }
  const auto note = [&](const std::string& line) {
    directory.log(line);
    if (events.on_note) events.on_note(line);
  };
  for (const std::string& line : experiment.notes) note(line);
  std::string lines;
  for (const Record& record : experiment.records) lines += json::dump(record.source) + "\n";
  write_file_atomically(options.out / records_file, lines);

  for (size_t d = 0; d < experiment.deals.size(); ++d) {
    const std::string name = "deal " + std::to_string(d + 1) + " of " + std::to_string(experiment.deals.size());
    ConductOptions own = options;
    own.out = deal_directory(options.out, static_cast<int64_t>(d));
    made_directory(own.out.parent_path());
    own.identity.set("deal", json::Value::object()
                                 .set("index", static_cast<int64_t>(d))
                                 .set("deals", spec.cross_fit->deals)
                                 .set("share", spec.cross_fit->share));
    ConductEvents told = events;
    told.on_stage = [&](const std::string& what, int64_t total, const std::string& unit) {
      directory.log(name + ": " + what);
      if (events.on_stage) events.on_stage(name + ": " + what, total, unit);
    };
    if (conduct(experiment_of_deal(experiment, experiment.deals[d]), session, own, told) == RunEnd::interrupted) {
      directory.finish(RunStatus::interrupted);
      return RunEnd::interrupted;
    }
  }
  if (events.on_stage) events.on_stage("writing findings over all deals", 0, "samples");
  const RunFindings findings = write_cross_fit_findings(options.out, options.out);
  if (options.on_findings) options.on_findings(options.out, findings);
  directory.finish(RunStatus::complete);
  return RunEnd::complete;
}

namespace {

// "cross_fit" of the spec in a directory's manifest.
std::optional<CrossFitSpec> cross_fit_of(const fs::path& dir) {
  if (!fs::exists(dir / "deals")) return std::nullopt;
  const std::optional<Manifest> manifest = Manifest::read(dir);
  const json::Value* spec = manifest ? manifest->identity.find("spec") : nullptr;
  const json::Value* fit = spec ? spec->find("cross_fit") : nullptr;
  if (!fit || fit->is_null()) return std::nullopt;
  const json::Ref ref(*fit, (dir / manifest_file).string(), "spec.cross_fit");
  return CrossFitSpec{ref.at("deals").size(), ref.at("share").number()};
}

// The stage of detection that a planned intervention of a deal took its experts from, by its name.
std::map<std::string, std::string> stages_of(const fs::path& deal) {
  std::map<std::string, std::string> stages;
  const std::optional<Manifest> manifest = Manifest::read(deal);
  const json::Value* spec = manifest ? manifest->identity.find("spec") : nullptr;
  if (!spec) return stages;
  for (const json::Value& one : spec->find("interventions")->items())
    for (const json::Value& edit : one.find("edits")->items())
      if (const auto stage = detect_stage_of(edit)) stages.emplace(one.find("name")->string(), *stage);
  return stages;
}

// The experts that an intervention's edits list by layer; those of a point of one layer are listed without it.
std::set<ExpertId> experts_of(const json::Value& edits) {
  std::set<ExpertId> out;
  for (const json::Value& edit : edits.items()) {
    const json::Value* experts = edit.find("experts");
    if (!experts) continue;
    const auto add = [&](const std::string& layer, const json::Value& list) {
      for (const json::Value& expert : list.items())
        out.insert({static_cast<int32_t>(std::stol(layer)), static_cast<int32_t>(expert.integer())});
    };
    if (experts->type() == json::Type::object) {
      for (const auto& [layer, list] : experts->members())
        if (list.type() == json::Type::array) add(layer, list);
    } else if (const json::Value* point = edit.find("point"); point && point->is_string()) {
      constexpr std::string_view before = "layer.";
      const size_t at = point->string().find(before);
      if (at != std::string::npos) add(point->string().substr(at + before.size()), *experts);
    }
  }
  return out;
}

// Collects the deals of a run into one set of values.
class Deals {
 public:
  Deals(const fs::path& dir, const CrossFitSpec& spec) : dir_(dir), spec_(spec) {
    records_ = read_records((dir / records_file).string());
    for (size_t r = 0; r < records_.size(); ++r) record_of_[records_[r].id] = static_cast<int64_t>(r);
    for (int64_t deal = 0; deal < spec.deals; ++deal) add(deal);
  }

  RunValues values() const {
    RunValues out = first_;
    out.clusters.clear();
    out.conditions.clear();
    for (const size_t first : independent_examples(records_)) out.clusters.push_back(records_[first].id);
    for (const Record& record : records_) out.conditions.push_back(record.condition);
    out.data.copies = count_copies(records_);
    out.interventions = interventions_;
    for (size_t i = 0; i < interventions_.size(); ++i)
      for (const auto& [metric, by_record] : sums_[i]) {
        MetricValues& values = out.interventions[i].metrics[metric];
        values = {};
        for (const auto& [record, sum] : by_record) {
          values.records.push_back(record);
          values.values.push_back(sum.first / static_cast<double>(sum.second));
        }
      }
    return out;
  }

  // What the findings of the deals by themselves say, in the order of `findings`.
  CrossFitFindings fit(const RunFindings& findings) const {
    CrossFitFindings out;
    out.deals = spec_.deals;
    out.share = spec_.share;
    out.effects.assign(findings.interventions.size(), {});
    for (auto& by_metric : out.effects)
      by_metric.assign(findings.metrics.size(), std::vector<DealEffect>(static_cast<size_t>(spec_.deals)));
    for (int64_t deal = 0; deal < spec_.deals; ++deal) {
      const RunFindings own = read_findings(deal_directory(dir_, deal));
      for (size_t i = 0; i < own.interventions.size(); ++i)
        for (size_t m = 0; m < own.metrics.size(); ++m) {
          const Contrast& contrast = own.all.contrasts[i][m];
          out.effects[findings.intervention_index(own.interventions[i].name)][findings.metric_index(own.metrics[m])]
                     [static_cast<size_t>(deal)] = {contrast.difference, contrast.p};
        }
    }
    for (const auto& [name, experts] : taken_)
      for (const auto& [expert, taken] : experts)
        out.selection.push_back({name, expert, taken.deals,
                                 taken.rankings > 0 ? taken.rd / static_cast<double>(taken.rankings) : no_number});
    return out;
  }

  // Sums over the deals of the ranking that the audit is held against; empty where there is none.
  struct Ranked {
    double rd = 0;
    std::array<double, n_contributions> given = {0, 0, 0};
    int64_t deals = 0;
  };
  const std::map<ExpertId, Ranked>& audited() const { return audited_; }

 private:
  struct Taken {
    int64_t deals = 0, rankings = 0;
    double rd = 0;
  };

  void add(int64_t deal) {
    const fs::path dir = deal_directory(dir_, deal);
    const RunSchedule schedule = read_schedule(dir);
    const RunValues run = collect_values(dir, schedule);
    if (deal == 0) first_ = run;
    // Deals may have chosen other points of a grid.
    for (const std::string& name : run.primary->interventions)
      if (auto& all = first_.primary->interventions; std::find(all.begin(), all.end(), name) == all.end())
        all.push_back(name);
    std::vector<int64_t> place;  // of the deal's records among all
    for (const Record& record : read_records((dir / records_file).string())) {
      const auto found = record_of_.find(record.id);
      if (found == record_of_.end())
        throw Error((dir / records_file).string(),
                    "expected a record of " + (dir_ / records_file).string() + ", found \"" + record.id + "\"");
      place.push_back(found->second);
    }
    for (const InterventionValues& one : run.interventions) {
      const auto [at, fresh] = index_.emplace(one.name, interventions_.size());
      if (fresh) {
        interventions_.push_back(one);
        interventions_.back().edits.clear();
        sums_.emplace_back();
      } else if (interventions_[at->second].description != one.description &&
                 !interventions_[at->second].description.ends_with(" (in the first deal)")) {
        interventions_[at->second].description += " (in the first deal)";
      }
      for (const auto& [record, counts] : one.edits)
        interventions_[at->second].edits[place[static_cast<size_t>(record)]] += counts;
      for (const auto& [metric, values] : one.metrics) {
        auto& by_record = sums_[at->second][metric];
        for (size_t i = 0; i < values.records.size(); ++i) {
          auto& [sum, n] = by_record[place[static_cast<size_t>(values.records[i])]];
          sum += values.values[i];
          ++n;
        }
      }
    }
    add_selection(dir, schedule);
  }

  void add_selection(const fs::path& dir, const RunSchedule& schedule) {
    const std::map<std::string, std::string> stages = stages_of(dir);
    for (const PlannedIntervention& one : schedule.interventions) {
      const auto stage = stages.find(one.name);
      if (stage == stages.end()) continue;
      std::map<ExpertId, Taken>& all = taken_[one.name];
      for (const RankedExpert& ranked : read_ranking(dir / "detect" / stage->second / "rd.csv")) {
        Taken& taken = all[{ranked.layer, ranked.expert}];
        taken.rd += ranked.rd;
        ++taken.rankings;
      }
      for (const ExpertId& expert : experts_of(one.edits)) ++all[expert].deals;
    }
    for (const RankedExpert& ranked : ranking_of_audit(dir)) {
      Ranked& sums = audited_[{ranked.layer, ranked.expert}];
      sums.rd += ranked.rd;
      for (size_t i = 0; i < n_contributions; ++i) sums.given[i] += ranked.given[i];
      ++sums.deals;
    }
  }

  const fs::path dir_;
  const CrossFitSpec spec_;
  std::vector<Record> records_;
  std::map<std::string, int64_t> record_of_;
  RunValues first_;
  std::vector<InterventionValues> interventions_;  // as the deals name them, in order of first appearance
  std::map<std::string, size_t> index_;
  std::vector<std::map<std::string, std::map<int64_t, std::pair<double, int64_t>>>>
      sums_;                                                // [intervention][metric][record]
  std::map<std::string, std::map<ExpertId, Taken>> taken_;  // by intervention
  std::map<ExpertId, Ranked> audited_;
};

void drop_ranks(RecordFindings& found) {
  for (auto& by_metric : found.contrasts)
    for (Contrast& contrast : by_metric) {
      contrast.random.rank.reset();
      if (contrast.frequency_matched) contrast.frequency_matched->rank.reset();
    }
}

}  // namespace

bool is_cross_fit_directory(const fs::path& dir) {
  const std::optional<CrossFitSpec> spec = cross_fit_of(dir);
  if (!spec) return false;
  for (int64_t deal = 0; deal < spec->deals; ++deal)
    if (!fs::exists(deal_directory(dir, deal) / "metrics.json")) return false;
  return true;
}

RunFindings write_cross_fit_findings(const fs::path& dir, const fs::path& out,
                                     const std::optional<ReanalysisOptions>& options) {
  const std::optional<CrossFitSpec> spec = cross_fit_of(dir);
  if (!spec) throw Error(dir.string(), "expected a run with \"cross_fit\", found none");
  const Deals deals(dir, *spec);
  RunValues values = deals.values();
  if (options) {
    values.seed = options->seed;
    values.resamples = options->resamples;
  }
  RunFindings findings = run_findings(values, options ? options->threads : 0);
  drop_ranks(findings.all);
  for (ConditionFindings& condition : findings.conditions) drop_ranks(condition.found);
  findings.cross_fit = deals.fit(findings);
  const bool audit = std::any_of(findings.interventions.begin(), findings.interventions.end(),
                                 [](const Intervention& one) { return one.audited.has_value(); });
  if (audit && !deals.audited().empty()) {
    std::vector<size_t> given;  // what all deals recorded
    for (size_t i = 0; i < n_contributions; ++i)
      if (std::none_of(deals.audited().begin(), deals.audited().end(),
                       [i](const auto& one) { return std::isnan(one.second.given[i]); }))
        given.push_back(i);
    std::vector<std::string> names = {"layer", "expert", "rd"};
    for (const size_t i : given) names.push_back("rd_" + std::string(contribution_names[i].column));
    CsvWriter csv(std::vector<std::string_view>(names.begin(), names.end()));
    for (const auto& [expert, sums] : deals.audited()) {
      const auto n = static_cast<double>(sums.deals);
      csv.cell(int64_t{expert.layer}).cell(int64_t{expert.expert}).cell(sums.rd / n);
      for (const size_t i : given) csv.cell(sums.given[i] / n);
      csv.end_row();
    }
    made_directory(out / "audit");
    write_file_atomically(out / "audit" / "rd.csv", csv.text());
  }
  write_audit(out, out, findings);
  write_specification_curves(dir, out, findings);
  write_cross_fit_tables(out, findings);
  write_tables(out, findings);
  write_metrics(out, findings);
  return findings;
}

}  // namespace signalbox::eval
