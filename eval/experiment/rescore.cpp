#include "eval/experiment/rescore.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "base/files.h"
#include "base/text.h"
#include "eval/experiment/cross_fit.h"
#include "eval/experiment/findings.h"
#include "eval/experiment/schedule.h"
#include "eval/experiment/spec.h"
#include "eval/experiment/split.h"
#include "eval/score/sample_lines.h"
#include "eval/score/verdicts.h"
#include "eval/store/directory.h"
#include "eval/store/facts.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

// What a run leaves beside what is made again here.
constexpr std::array kept_files = {records_file, "summary.json", "detect", "tune", "audit", "traces"};

// What the lines of a run with some metrics hold.
struct Held {
  bool logprobs = false, divergence = false, options = false;
};

Held held_by(const std::vector<std::string>& metrics) {
  Held held;
  for (const std::string& metric : metrics) {
    const Needs needs = metric_needs(metric);
    held.logprobs |= needs == Needs::logprobs || needs == Needs::divergence;
    held.divergence |= needs == Needs::divergence;
    held.options |= needs == Needs::options;
  }
  return held;
}

bool contains(const std::vector<std::string>& list, const std::string& text) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

void link_file(const fs::path& from, const fs::path& to) {
  if (fs::exists(to)) return;
  std::error_code failed;
  fs::create_hard_link(from, to, failed);
  if (failed) copy_file_durably(from, to);
}

void link_tree(const fs::path& from, const fs::path& to) {
  if (fs::is_regular_file(from)) return link_file(from, to);
  if (!fs::is_directory(from)) return;
  fs::create_directories(to);
  for (const auto& entry : fs::directory_iterator(from)) link_tree(entry.path(), to / entry.path().filename());
}

class Rescorer {
 public:
  explicit Rescorer(const RescoreOptions& options)
      : options_(options),
        source_(read_source()),
        schedule_(read_schedule(options.from)),
        had_(held_by(schedule_.metrics)),
        spec_(new_spec()),
        wanted_(held_by(spec_.metrics)),
        verdicts_(asked_) {
    if (fs::file_size(options_.from / records_file) > 0)
      records_ = read_records((options_.from / records_file).string());
    for (size_t r = 0; r < records_.size(); ++r) record_of_[records_[r].id] = static_cast<int64_t>(r);
    check_metrics_are_there();
  }

  bool rescore() {
    RunDirectory directory(options_.out, new_manifest());
    if (directory.complete()) return true;
    try {
      for (const char* name : kept_files) link_tree(options_.from / name, options_.out / name);
    } catch (const fs::filesystem_error& error) {
      throw Error(error.path1().string(), error.code().message());
    }
    // Which contrasts are primary may follow from the metrics.
    RunSchedule schedule = make_schedule(spec_, spec_.metrics, schedule_.interventions);
    schedule.data = schedule_.data;
    schedule.limit = schedule_.limit;
    schedule.seeds = schedule_.seeds;
    write_schedule(options_.out, schedule);
    directory.begin(*source_.layout);
    if (directory.continued() && options_.on_note)
      options_.on_note(options_.out.string() + ": kept: " + std::to_string(directory.samples().n_known()) + " of " +
                       std::to_string(directory.samples().n_lines()) + " samples");
    const bool finished = write_lines(directory.samples());
    if (finished) {
      directory.finish_samples();
      const RunFindings findings = write_findings(options_.out);
      if (options_.on_findings) options_.on_findings(options_.out, findings);
    }
    directory.finish(finished ? RunStatus::complete : RunStatus::interrupted);
    return finished;
  }

 private:
  Manifest read_source() const {
    if (is_cross_fit_directory(options_.from))
      throw Error(options_.from.string(),
                  "expected the directory of one run, found one of deals (each of its deals/N is one)");
    std::optional<Manifest> manifest = Manifest::read(options_.from);
    if (!manifest || manifest->status != RunStatus::complete || !manifest->layout)
      throw Error(
          options_.from.string(),
          "expected a run that is complete, found one that is not (run its command again; signalbox report shows "
          "what there is so far)");
    return std::move(*manifest);
  }

  fs::path judges_dir() const {
    const fs::path dir = options_.judges.parent_path();
    return dir.empty() ? "." : dir;
  }

  // The run's spec with the new metrics and judges, parsed as `run` parses it.
  ExperimentSpec new_spec() {
    json::Value given = json::Ref(source_.info, (options_.from / manifest_file).string()).at("spec_given").value();
    json::Value judges = json::Value::object(), metrics = json::Value::array(), files = json::Value::object();
    if (!options_.judges.empty()) {
      files = json::parse_file(options_.judges);
      json::Ref(files, options_.judges.string()).expect_object();
    }
    for (const std::string& metric : options_.metrics) metrics.push_back(metric);
    if (const json::Value* had = given.find("judges"))
      for (const auto& [name, judge] : had->members())
        if (contains(options_.metrics, std::string(judge_prefix) + name) && !files.find(name)) judges.set(name, judge);
    for (const auto& [name, judge] : files.members()) judges.set(name, judge);
    given.set("metrics", std::move(metrics)).set("judges", std::move(judges));
    ExperimentSpec spec = parse_experiment(json::Ref(given, "--metrics"), judges_dir());
    for (const JudgeSpec& judge : spec.judges)
      if (files.find(judge.name)) asked_.push_back({judge.name, judge.command, judge.timeout, judge.batch});
    return spec;
  }

  void check_metrics_are_there() const {
    if (!records_.empty()) check_metrics(spec_, records_);
    const bool targets = std::all_of(records_.begin(), records_.end(), [](const Record& r) { return r.target; });
    for (const std::string& metric : spec_.metrics) {
      const Needs needs = metric_needs(metric);
      const bool there = contains(schedule_.metrics, metric) ? true
                         : metric.starts_with(judge_prefix)  ? is_asked(metric)
                         : needs == Needs::logprobs          ? had_.logprobs
                         : needs == Needs::divergence        ? had_.divergence && targets
                         : needs == Needs::options           ? had_.options
                                                             : true;
      if (!there)
        throw Error("--metrics", "expected a metric that needs no model, or whose numbers " + options_.from.string() +
                                     " holds, found " + in_quotes(metric));
    }
  }
  bool is_asked(const std::string& metric) const {
    return std::any_of(asked_.begin(), asked_.end(),
                       [&](const JudgeCommand& judge) { return metric.substr(judge_prefix.size()) == judge.name; });
  }

  Manifest new_manifest() const {
    Manifest manifest = source_;
    manifest.attempts.clear();
    manifest.status = RunStatus::running;
    const json::Value resolved = resolved_json(spec_);
    json::Value spec = *manifest.identity.find("spec"), hashes = *manifest.identity.find("hashes");
    spec.set("metrics", *resolved.find("metrics")).set("judges", *resolved.find("judges"));
    std::set<fs::path> files;
    for (const JudgeCommand& judge : asked_)
      for (const std::string& word : judge.argv)
        if (fs::is_regular_file(word)) files.insert(word);
    json::Value all = *hashes.find("files");
    const json::Value added = file_hashes(files, judges_dir());
    for (const auto& [name, hash] : added.members()) all.set(name, hash);
    hashes.set("files", std::move(all));
    json::Value rules = json::Value::object(), rescored = json::Value::object();
    for (const auto& [name, version] : score_rule_versions()) rules.set(name, version);
    rescored.set("samples", file_hash(options_.from / samples_file));
    rescored.set("signalbox_version", *manifest.identity.find("signalbox_version"));
    manifest.identity.set("spec", std::move(spec)).set("hashes", std::move(hashes));
    manifest.identity.set("scoring_rules", std::move(rules)).set("signalbox_version", options_.signalbox_version);
    manifest.identity.set("rescored", std::move(rescored));
    manifest.info.set("rescored_from", fs::absolute(options_.from).lexically_normal().string());
    manifest.info.set("argv", options_.argv);
    return manifest;
  }

  bool write_lines(SampleLog& log) {
    int64_t next = 0;
    bool stopped = false;
    for_each_sample_line(options_.from / samples_file, [&](SampleLine line, const json::Ref& source) {
      const int64_t number = next++;
      stopped = stopped || (options_.interrupted && options_.interrupted->load(std::memory_order_relaxed));
      if (stopped || number >= log.n_lines() || log.has(number)) return;
      const auto record = record_of_.find(line.sample.id);
      if (record == record_of_.end())
        source.at("id").fail("expected a record of " + std::string(records_file) + ", found " +
                             in_quotes(line.sample.id));
      line.sample.record = record->second;
      const auto write = [this, &log, number](const SampleLine& scored, const json::Value& was) {
        log.put(number, json::dump(new_line(scored, was)));
        if (options_.on_progress) options_.on_progress(log.n_known(), log.n_lines());
      };
      if (asked_.empty()) return write(line, source.value());
      if (!line.sample.has_text || !line.sample.decoded) source.fail("expected generated text, found none");
      const Record& asked = records_[static_cast<size_t>(record->second)];
      const JudgedText text{asked.id, options_.shown_text(asked), line.sample.text};
      verdicts_.judge(record->second, text,
                      [write, line = std::move(line), was = source.value()](Judged judged) mutable {
                        for (const auto& [name, score] : judged) set_judged(line.sample.judged, name, score);
                        write(line, was);
                      });
    });
    verdicts_.flush();
    if (!stopped && next != log.n_lines())
      throw Error((options_.from / samples_file).string(),
                  "expected " + std::to_string(log.n_lines()) + " lines, found " + std::to_string(next));
    return !stopped;
  }

  static void set_judged(Judged& judged, const std::string& name, double score) {
    for (auto& [known, value] : judged)
      if (known == name) return void(value = score);
    judged.emplace_back(name, score);
  }

  // The line that a run with the new metrics would have written.
  json::Value new_line(const SampleLine& line, const json::Value& was) const {
    json::Value judged = json::Value::object(), scores = json::Value::object(), out = json::Value::object();
    for (const JudgeSpec& judge : spec_.judges)
      for (const auto& [name, value] : line.sample.judged)
        if (name == judge.name) judged.set(name, value);
    for (const std::string& metric : spec_.metrics)
      if (const Scorer* scorer = find_scorer(metric); scorer && scorer->score) add_score(*scorer, line, was, scores);
    for (const auto& [key, value] : was.members()) {
      const bool of_divergence = key == "divergence" || key == "same_top" || key == "mean_divergence";
      const bool of_logprobs = key == "sum_logprob" || key == "n_logprobs" || key == "logprobs";
      if (key == "judged" || (of_divergence && !wanted_.divergence) || (of_logprobs && !wanted_.logprobs) ||
          (key == "options" && !wanted_.options))
        continue;
      if (key != "scores") {
        out.set(key, value);
        continue;
      }
      if (!judged.members().empty()) out.set("judged", judged);
      out.set("scores", scores);
    }
    return out;
  }

  void add_score(const Scorer& scorer, const SampleLine& line, const json::Value& was, json::Value& scores) const {
    const Sample& sample = line.sample;
    const bool has = scorer.needs == Needs::text      ? sample.has_text
                     : scorer.needs == Needs::options ? !sample.options.empty()
                                                      : sample.n_logprobs > 0;
    if (!has) return;
    const std::string name(scorer.name);
    // A line read back need not hold what a model's metric was made of.
    if (const json::Value* known = was.find("scores")->find(name); known && scorer.needs != Needs::text)
      return void(scores.set(name, *known));
    if (scorer.needs == Needs::text && !scorer.tokens_only && !sample.decoded)
      throw Error("--metrics", "expected a run with a tokenizer for " + in_quotes(name) + ", found one without");
    const Record& record = records_[static_cast<size_t>(sample.record)];
    const bool lacks = scorer.lacks && !scorer.lacks(record).empty();
    Sample whole = sample;
    if (whole.logprobs.empty() && whole.n_logprobs > 0) {
      // Of a record without a target a line keeps the sum alone, which is all that a mean is made of.
      whole.logprobs.assign(static_cast<size_t>(whole.n_logprobs), 0.0);
      whole.logprobs[0] = whole.sum_logprob;
    }
    const std::optional<double> value = lacks ? std::nullopt : scorer.score(record, whole);
    scores.set(name, value ? json::Value(*value) : json::Value());
  }

  const RescoreOptions& options_;
  std::vector<JudgeCommand> asked_;
  const Manifest source_;
  const RunSchedule schedule_;
  const Held had_;
  const ExperimentSpec spec_;
  const Held wanted_;
  Verdicts verdicts_;
  std::vector<Record> records_;
  std::map<std::string, int64_t> record_of_;
};

}  // namespace

bool rescore_run(const RescoreOptions& options) { return Rescorer(options).rescore(); }

}  // namespace signalbox::eval
