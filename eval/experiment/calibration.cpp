#include "eval/experiment/calibration.h"

#include <cmath>
#include <map>
#include <memory>
#include <tuple>

#include "base/files.h"
#include "base/near_names.h"
#include "base/text.h"
#include "eval/data/examples.h"
#include "eval/experiment/cross_fit.h"
#include "eval/experiment/schedule.h"
#include "eval/experiment/spec.h"
#include "eval/score/fields.h"
#include "eval/score/sample_lines.h"
#include "eval/score/scorer.h"
#include "eval/score/verdicts.h"
#include "eval/store/journal.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

constexpr int64_t few_wrong = 10, few_labels = 20;  // below these a note is made

// One text and what is known of it; `score` when its judge has spoken.
struct LabelledPoint {
  int64_t cluster = 0;
  std::optional<bool> label;
  std::optional<double> score;
};

// A labelled line that names a sample of the run.
struct OwnLabel {
  bool label = false;
  std::optional<std::string> text;
  std::string where;
  bool used = false;
};
using SampleKey = std::tuple<std::string, std::string, uint64_t, int64_t>;  // intervention, id, seed, sample

bool rates_single_texts(const Scorer& scorer) {
  return scorer.needs == Needs::text && scorer.score && !scorer.tokens_only;
}

// Their names.
std::vector<std::string> single_text_scores() {
  std::vector<std::string> names;
  for (const Scorer& scorer : scorers())
    if (rates_single_texts(scorer)) names.emplace_back(scorer.name);
  return names;
}

class Calibrator {
 public:
  explicit Calibrator(const CalibrationOptions& options) : options_(options), verdicts_(judges()) {
    scorer_ = judged() ? nullptr : find_scorer(options.score);
    if (judged()) return;
    if (!scorer_ || !rates_single_texts(*scorer_))
      throw Error("--score", wrong_name("a score of a single text, or judge:NAME", options.score, single_text_scores(),
                                        "docs/scores.md"));
  }

  Calibration calibrate() {
    if (!options_.run.empty()) open_run();
    read_labels();
    if (!options_.run.empty()) read_run();
    verdicts_.flush();
    return findings();
  }

 private:
  bool judged() const { return options_.score.starts_with(judge_prefix); }
  std::string judge_name() const { return options_.score.substr(judge_prefix.size()); }
  std::vector<JudgeCommand> judges() const {
    std::vector<JudgeCommand> out;
    for (const JudgeCommand& judge : options_.judges)
      if (judged() && judge.name == judge_name()) out.push_back(judge);
    return out;
  }

  void open_run() {
    if (is_cross_fit_directory(options_.run))
      throw Error(options_.run.string(),
                  "expected the directory of one run, found one of deals (each of its deals/N is one)");
    const std::optional<Manifest> manifest = Manifest::read(options_.run);
    if (!manifest || manifest->status != RunStatus::complete)
      throw Error(options_.run.string(), "expected a run that is complete, found one that is not");
    schedule_ = read_schedule(options_.run);
    if (fs::file_size(options_.run / records_file) > 0) records_ = read_records((options_.run / records_file).string());
    for (size_t r = 0; r < records_.size(); ++r) record_of_[records_[r].id] = r;
    examples_ = independent_examples(records_);
    for (size_t i = 0; i < schedule_.interventions.size(); ++i) intervention_of_[schedule_.interventions[i].name] = i;
    lines_.resize(intervention_of_.size());
  }

  int64_t cluster_named(const std::string& name) {
    return clusters_.emplace(name, static_cast<int64_t>(clusters_.size())).first->second;
  }
  // Records of the run that are not independent are one cluster; of other lines those of a pair, a record or its
  // wordings.
  int64_t cluster_of(size_t record) { return cluster_named("example " + std::to_string(examples_[record])); }
  int64_t cluster_of(const Record& record) {
    const std::string rephrased = paraphrase_of(record);
    return cluster_named(!record.pair.empty() ? "pair " + record.pair
                                              : "id " + (rephrased.empty() ? record.id : rephrased));
  }

  // What the score says of the text, now or when the judge's batch is full. Points do not move.
  void ask(const Record& record, const Sample& sample, bool has_prompt, LabelledPoint& point) {
    if (!judged()) {
      const bool lacks = scorer_->lacks && !scorer_->lacks(record).empty();
      return set(point, lacks ? std::nullopt : scorer_->score(record, sample), record.where);
    }
    if (judges().empty())
      throw Error("--judges", "expected the command of the judge " + in_quotes(judge_name()) + ", found none");
    if (!has_prompt)
      throw Error(record.where, "expected a prompt for the judge, or the id of a record of --run, found none");
    const int64_t number = judged_numbers_.emplace(record.where, judged_numbers_.size()).first->second;
    verdicts_.judge(number, {record.id, options_.shown_text(record), sample.text},
                    [&point](Judged judged) { point.score = judged.at(0).second; });
  }

  void set(LabelledPoint& point, std::optional<double> score, const std::string& where) const {
    if (score && !(*score >= 0 && *score <= 1))
      throw Error(where, options_.score + ": expected a score from 0 to 1, found " + short_number(*score));
    point.score = score;
  }

  void read_labels() {
    LineReader reader(options_.labelled);
    int64_t n_own = 0, n = 0;
    for (std::string_view text; reader.next(text);) {
      if (text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      const json::Value value = json::parse(text, reader.where());
      const json::Ref line(value, reader.where());
      line.expect_object();
      const json::Ref label = line.at("label");
      const bool is = label.value().type() == json::Type::boolean ? label.boolean() : label.integer(0, 1) == 1;
      const bool own = !options_.run.empty() && line.find("intervention");
      n_own += own;
      ++n;
      if (own && n_own < n) line.fail("expected lines that all name an intervention, or none, found both");
      if (!own && n_own > 0) line.fail("expected lines that all name an intervention, or none, found both");
      own ? add_own_label(line, is) : add_label(line, is);
    }
    if (n == 0) throw Error(options_.labelled.string(), "expected labelled lines, found none");
    own_ = n_own > 0;
  }

  void add_own_label(const json::Ref& line, bool label) {
    const json::Ref intervention = line.at("intervention"), id = line.at("id");
    if (!intervention_of_.contains(intervention.string()))
      intervention.fail(wrong_name("an intervention of " + options_.run.string(), intervention.string(),
                                   names_of(intervention_of_, [](const auto& entry) { return entry.first; })));
    const auto seed = line.find("seed"), sample = line.find("sample"), text = line.find("text");
    if (!seed && schedule_.seeds.size() > 1) line.fail("expected the key \"seed\" for a run of several, found none");
    OwnLabel own{label, {}, line.where()};
    if (text) own.text = text->string();
    const uint64_t number = !seed ? schedule_.seeds[0]
                                  : static_cast<uint64_t>(seed->value().is_unsigned() ? seed->value().integer()
                                                                                      : seed->integer(0, INT64_MAX));
    const auto [entry, fresh] = own_labels_.try_emplace(
        {intervention.string(), id.string(), number, sample ? sample->size() : 0}, std::move(own));
    if (!fresh) line.fail("expected each sample once, found that of " + entry->second.where + " again");
  }

  void add_label(const json::Ref& line, bool label) {
    json::Value object = line.value();
    const json::Value* id = object.find("id");
    // A record of the run where the line names one; else the line itself.
    const auto known = id && id->is_string() ? record_of_.find(id->string()) : record_of_.end();
    Sample sample;
    sample.has_text = true;
    sample.text = line.at("text").string();
    sample.finish_reason = "eos";
    if (const auto reason = line.find("finish_reason")) sample.finish_reason = reason->string();
    labelled_.push_back(std::make_unique<LabelledPoint>());
    LabelledPoint& point = *labelled_.back();
    point.label = label;
    if (known != record_of_.end()) {
      point.cluster = cluster_of(known->second);
      return ask(records_[known->second], sample, true, point);
    }
    const bool has_prompt = object.find("prompt") || object.find("messages") || object.find("tokens");
    if (!id) object.set("id", line.where());
    if (!has_prompt) object.set("prompt", "");
    const Record record = parse_record(object, line.where());
    point.cluster = cluster_of(record);
    ask(record, sample, has_prompt, point);
  }

  void read_run() {
    for_each_sample_line(options_.run / samples_file, [&](SampleLine line, const json::Ref& source) {
      const auto intervention = intervention_of_.find(line.intervention);
      const auto record = record_of_.find(line.sample.id);
      if (intervention == intervention_of_.end() || record == record_of_.end())
        source.fail("expected a sample of " + std::string(plan_file) + " and " + records_file + ", found another");
      if (!line.sample.has_text || !line.sample.decoded) source.fail("expected generated text, found none");
      auto& points = lines_[intervention->second];
      points.push_back(std::make_unique<LabelledPoint>());
      LabelledPoint& point = *points.back();
      point.cluster = cluster_of(record->second);
      const auto own = own_labels_.find({line.intervention, line.sample.id, line.sample.seed, line.sample.sample});
      if (own != own_labels_.end()) {
        own->second.used = true;
        if (own->second.text && *own->second.text != line.sample.text)
          throw Error(own->second.where, "text: expected that of the run's sample, found another");
        point.label = own->second.label;
      }
      score_line(line, records_[record->second], point);
    });
    for (const auto& [key, own] : own_labels_)
      if (!own.used)
        throw Error(own.where,
                    "expected a sample of " + options_.run.string() + ", found none of its id, seed and number");
  }

  // As the run has scored it, where it has.
  void score_line(const SampleLine& line, const Record& record, LabelledPoint& point) {
    for (const auto& [name, value] : line.scores)
      if (name == options_.score) return set(point, value, record.where);
    for (const auto& [name, value] : line.sample.judged)
      if (judged() && name == judge_name()) return set(point, value, record.where);
    ask(record, line.sample, true, point);
  }

  Calibration findings() {
    Calibration out;
    out.score = options_.score;
    out.threshold = options_.threshold;
    out.own = own_;
    std::vector<LabelledScore> pooled;
    const auto take = [&](const LabelledPoint& point) {
      if (!point.label) return;
      if (point.score)
        pooled.push_back({*point.label, *point.score, point.cluster});
      else
        ++out.n_undefined;
    };
    for (const auto& point : labelled_) take(*point);
    std::vector<std::vector<ScoredLine>> lines;
    for (const auto& points : lines_) {
      lines.emplace_back();
      for (const auto& point : points) {
        take(*point);
        if (point->score) lines.back().push_back({point->cluster, *point->score, point->label});
      }
    }
    if (pooled.empty())
      throw Error(options_.labelled.string(),
                  "expected a line for which " + options_.score + " is defined, found none");
    out.table = confusion(pooled, options_.threshold, options_.seed, options_.resamples);
    if (!options_.run.empty()) add_rates(corrected_rates(lines, pooled, own_, {options_.threshold}), out);
    add_notes(out);
    return out;
  }

  void add_rates(const std::vector<CorrectedRate>& rates, Calibration& out) const {
    out.baseline = schedule_.baseline;
    const CorrectedRate& baseline = rates[schedule_.baseline_index()];
    for (size_t i = 0; i < rates.size(); ++i)
      out.interventions.push_back({schedule_.interventions[i], rates[i], rate_difference(rates[i], baseline)});
  }

  void add_notes(Calibration& out) const {
    const auto count = [](int64_t n, const char* what) { return std::to_string(n) + " " + what + (n == 1 ? "" : "s"); };
    if (out.n_undefined > 0)
      out.notes.push_back(count(out.n_undefined, "label") + " left out: the score is undefined for the text");
    if (out.table.n_wrong() < few_wrong)
      out.notes.push_back("The score is wrong on " + count(out.table.n_wrong(), "label") +
                          ": how it errs is hardly known; label more texts.");
    if (out.interventions.empty()) return;
    if (!own_)
      out.notes.push_back(
          "The labels name no interventions: the score is taken to err alike under all of them, which a text that an "
          "intervention has broken need not do.");
    int64_t few = 0;
    for (const CalibratedIntervention& one : out.interventions)
      few += own_ && one.about.is_main() && one.rate.n_labels < few_labels;
    if (few > 0)
      out.notes.push_back(count(few, "intervention") + " with fewer than " + std::to_string(few_labels) +
                          " labels of their own: PPI cannot say much of them.");
  }

  const CalibrationOptions& options_;
  const Scorer* scorer_ = nullptr;
  Verdicts verdicts_;
  RunSchedule schedule_;
  std::vector<Record> records_;
  std::vector<size_t> examples_;  // [records] the first record of each one's example
  std::map<std::string, size_t> record_of_, intervention_of_;
  std::map<std::string, int64_t> clusters_, judged_numbers_;
  std::map<SampleKey, OwnLabel> own_labels_;
  bool own_ = false;
  std::vector<std::unique_ptr<LabelledPoint>> labelled_;            // lines that are not of the run
  std::vector<std::vector<std::unique_ptr<LabelledPoint>>> lines_;  // [interventions of the run]
};

}  // namespace

Calibration calibrate(const CalibrationOptions& options) { return Calibrator(options).calibrate(); }

}  // namespace signalbox::eval
