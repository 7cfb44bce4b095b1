#include "eval/faithfulness/conduct.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "eval/faithfulness/shards.h"
#include "eval/routing/recording.h"
#include "eval/store/line_log.h"
#include "eval/store/work_directory.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

// Explanations whose routes are compared in one go: bounds what is kept in memory, and what a killed process loses.
constexpr size_t route_block = 64;

json::Value written_line(const Written& written) {
  json::Value tokens = json::Value::array();
  for (int32_t token : written.tokens) tokens.push_back(int64_t{token});
  return json::Value::object()
      .set("tokens", std::move(tokens))
      .set("text", written.text)
      .set("finish_reason", written.finish_reason);
}

Written read_written(const json::Ref& line) {
  line.reject_unknown({"tokens", "text", "finish_reason"});
  Written written;
  for (const json::Ref& token : line.at("tokens").items())
    written.tokens.push_back(static_cast<int32_t>(token.integer(0, INT32_MAX)));
  written.text = line.at("text").string();
  written.finish_reason = line.at("finish_reason").string();
  return written;
}

// What a command printed for one sentence.
std::string read_altered(const json::Ref& line) {
  line.reject_unknown({"text"});
  return line.at("text").string();
}

// Log p of a text of stage 7, and its tokens.
json::Value score_line(const Result& result) {
  double sum = 0;
  for (const double logprob : result.logprobs) sum += logprob;
  return json::Value::object().set("logprob", sum).set("tokens", static_cast<int64_t>(result.logprobs.size()));
}

double read_score(const json::Ref& line, int64_t n_tokens) {
  line.reject_unknown({"logprob", "tokens"});
  if (line.at("tokens").size() != n_tokens)
    line.fail("expected " + std::to_string(n_tokens) + " tokens, found another number");
  return line.at("logprob").number();
}

// A case of stage 8: its index, [jaccard, weighted] by layer, null where undefined, and of a misrouting how far it
// goes.
struct Compared {
  std::vector<RouteLikeness> likeness;
  std::optional<MisrouteDistance> distance;
};

json::Value route_line(size_t index, const std::vector<RouteLikeness>& likeness,
                       const std::optional<MisrouteDistance>& distance) {
  json::Value layers = json::Value::array();
  for (const RouteLikeness& layer : likeness)
    layers.push_back(json::Value::array().push_back(layer.jaccard).push_back(layer.weighted));
  json::Value line = json::Value::object().set("case", static_cast<int64_t>(index)).set("layers", std::move(layers));
  if (distance)
    line.set("misrouted", json::Value::object()
                              .set("tokens", distance->tokens)
                              .set("replaced", distance->replaced)
                              .set("mass_lost", distance->mass_lost));
  return line;
}

Compared read_route(const json::Ref& line, size_t index) {
  line.reject_unknown({"case", "layers", "misrouted"});
  if (line.at("case").size() != static_cast<int64_t>(index))
    line.fail("expected case " + std::to_string(index) + ", found another");
  const auto value = [](const json::Ref& number) { return number.is_null() ? NAN : number.number(); };
  Compared out;
  for (const json::Ref& layer : line.at("layers").items()) out.likeness.push_back({value(layer[0]), value(layer[1])});
  if (const auto misrouted = line.find("misrouted")) {
    misrouted->reject_unknown({"tokens", "replaced", "mass_lost"});
    out.distance = MisrouteDistance{misrouted->at("tokens").size(), value(misrouted->at("replaced")),
                                    value(misrouted->at("mass_lost"))};
  }
  return out;
}

Manifest manifest_of(const StudyWork& work, const Shard& shard) {
  Manifest manifest;
  manifest.schema = faithfulness_schema;
  manifest.identity = work.identity;
  manifest.info = work.info;
  manifest.shard = shard;
  return manifest;
}

std::optional<StudyShards> shards_of(const StudyWork& work) {
  if (work.shards.empty()) return std::nullopt;
  return StudyShards(work.shards, faithfulness_schema, work.identity);
}

class StudyRun {
 public:
  StudyRun(FaithfulnessStudy& study, Forward& forward, RunOptions& options, const StudyWork& work,
           const StudyEvents& events)
      : study_(study),
        forward_(forward),
        options_(options),
        work_(work),
        events_(events),
        shards_(shards_of(work)),
        directory_(work.out, manifest_of(work, study.options().shard)) {
    for (size_t i = 0; i < study.records().size(); ++i) record_index_[study.records()[i].id] = i;
  }

  std::optional<FaithfulnessFindings> run() {
    if (directory_.complete() && !findings_are_there()) directory_.reopen();
    keep_settings();
    if (!stages()) {
      directory_.finish(RunStatus::interrupted);
      return std::nullopt;
    }
    FaithfulnessFindings findings = faithfulness_findings(study_);
    if (!directory_.complete()) {
      directory_.log("writing findings");
      write_findings(study_, findings, work_.settings, directory_.path());
      directory_.set_info("tables", tables_json());
      directory_.finish(RunStatus::complete);
    }
    return findings;
  }

 private:
  // What the tables depend on beside the stages.
  json::Value tables_json() const {
    return json::Value::object()
        .set("resamples", study_.options().resamples)
        .set("moved_below", study_.options().moved_below);
  }

  bool findings_are_there() const {
    const json::Value* tables = directory_.manifest().info.find("tables");
    if (!tables || !(*tables == tables_json())) return false;
    std::vector<const char*> files = {"settings.json", "samples.jsonl", "curves.csv",
                                      "aoc.csv",       "routing.csv",   "summary.json"};
    if (study_.options().routes) files.push_back("routing_layers.csv");
    if (study_.options().forced) files.insert(files.end(), {"forced.csv", "forced_aoc.csv", "forced_curves.csv"});
    return std::all_of(files.begin(), files.end(),
                       [&](const char* file) { return fs::exists(directory_.path() / file); });
  }

  void keep_settings() {
    const fs::path file = directory_.path() / "settings.json";
    if (!fs::exists(file)) write_file_atomically(file, json::dump(work_.settings, 2) + "\n");
    made_directory(directory_.path() / "stages");
  }

  // False when interrupted.
  bool stages() {
    auto outputs = write_stage("1-write", study_.write_jobs(), {});
    if (!outputs) return false;
    study_.set_outputs(std::move(*outputs));
    auto asked = write_stage("2-ask", study_.ask_jobs(), {});
    if (!asked) return false;
    study_.set_asked(std::move(*asked));
    for (const auto& [alteration, name] :
         {std::pair{Alteration::mistake, "3-mistakes"}, {Alteration::paraphrase, "4-paraphrases"}})
      if (!alter_stage(alteration, name)) return false;
    study_.make_cases();
    auto continued = write_stage("5-continue", study_.continue_jobs(), {study_.options().marker});
    if (!continued) return false;
    study_.set_continued(std::move(*continued));
    std::optional<std::vector<Written>> answers;
    if (study_.options().generate) {
      answers = write_stage("6-answer", study_.answer_jobs(), {});
      if (!answers) return false;
    }
    study_.set_answers(answers ? std::move(*answers) : std::vector<Written>());
    if (study_.options().forced && !score_stage("7-score", study_.score_jobs())) return false;
    return !study_.options().routes || compare_routes();
  }

  // The lines of a stage, of which the directory may hold some or all.
  std::unique_ptr<LineLog> open_stage(const std::string& name, LineRules rules) {
    const fs::path file = directory_.path() / "stages" / (name + ".jsonl"),
                   journal = directory_.path() / "stages" / (name + ".journal.jsonl");
    if (!fs::exists(file)) directory_.reopen();
    rules.name = [name](int64_t line) { return "line " + std::to_string(line + 1) + " of " + name; };
    auto log = std::make_unique<LineLog>(file, journal, rules);
    if (log->whole()) {
      log->finish();
      kept_.push_back(name);
      return log;
    }
    directory_.reopen();
    tell_kept(name, *log);
    if (log->n_known() > 0 && !work_.batch_invariant) {
      log.reset();
      for (const fs::path& one : {file, journal}) fs::remove(one);
      log = std::make_unique<LineLog>(file, journal, std::move(rules));
    }
    directory_.log(name + ": " + std::to_string(log->n_known()) + " of " + std::to_string(log->n_lines()) +
                   " lines known");
    return log;
  }

  // Once, before the first stage of which something is missing.
  void tell_kept(const std::string& name, const LineLog& log) {
    if (told_kept_) return;
    told_kept_ = true;
    std::string text = joined(kept_);
    if (log.n_known() > 0 && work_.batch_invariant)
      text += (text.empty() ? "" : "; ") + std::to_string(log.n_known()) + " of " + std::to_string(log.n_lines()) +
              " lines of " + name;
    if (!text.empty() && directory_.continued() && events_.on_kept) events_.on_kept(text);
  }

  // f(i, line i) for all lines of a whole stage.
  template <class F>
  static void for_each_line(const std::string& name, const LineLog& log, F f) {
    for (int64_t i = 0; i < log.n_lines(); ++i) {
      const std::string where = name + ".jsonl:" + std::to_string(i + 1);
      const json::Value line = json::parse(log.line(i), where);
      f(i, json::Ref(line, where));
    }
  }

  static std::vector<std::string> ids_of(const std::vector<Job>& jobs) {
    std::vector<std::string> ids;
    for (const Job& job : jobs) ids.push_back(job.prompt->id);
    return ids;
  }

  // Lines that are not known, of a stage whose line i is about the record `ids[i]`.
  void take_from_shards(const std::string& name, LineLog& log, const std::vector<std::string>& ids) {
    if (!shards_ || log.whole()) return;
    shards_->begin(name);
    std::string where;
    for (int64_t i = 0; i < log.n_lines(); ++i) {
      const std::string text = shards_->next(record_index_.at(ids[static_cast<size_t>(i)]), where);
      if (!log.has(i)) log.put(i, text);
    }
    shards_->end();
    log.finish();
  }

  // A case has another number in its shard: it counts those of the shard's records.
  void take_routes_from_shards(const std::string& name, LineLog& log, const std::vector<size_t>& cases) {
    if (!shards_ || log.whole()) return;
    std::vector<size_t> n_cases(shards_->count(), 0), number;
    for (const FaithCase& one : study_.cases())
      number.push_back(n_cases[shards_->shard_of(study_.explanations()[one.explanation].record)]++);
    shards_->begin(name);
    std::string where;
    for (int64_t i = 0; i < log.n_lines(); ++i) {
      const size_t index = cases[static_cast<size_t>(i)];
      const std::string text = shards_->next(study_.explanations()[study_.cases()[index].explanation].record, where);
      const json::Value line = json::parse(text, where);
      const Compared compared = read_route(json::Ref(line, where), number[index]);
      if (!log.has(i)) log.put(i, json::dump(route_line(index, compared.likeness, compared.distance)));
    }
    shards_->end();
    log.finish();
  }

  bool run_all(const std::string& name, const std::vector<Job>& jobs, const std::vector<std::string>& stop,
               const std::function<void(Result)>& on_done, ProbeSink* sink) {
    if (events_.on_stage) events_.on_stage(name, tokens_to_record(jobs));
    options_.stop_strings = stop;
    RunEvents events;
    events.on_progress = events_.on_progress;
    events.on_done = on_done;
    return run_jobs(forward_, jobs, options_, events, sink);
  }

  std::optional<std::vector<Written>> write_stage(const std::string& name, std::vector<Job> jobs,
                                                  const std::vector<std::string>& stop) {
    LineRules rules;
    rules.n_lines = static_cast<int64_t>(jobs.size());
    rules.check_line = [](int64_t, const json::Ref& line) { read_written(line); };
    const std::unique_ptr<LineLog> log = open_stage(name, std::move(rules));
    take_from_shards(name, *log, ids_of(jobs));
    if (!log->whole()) {
      std::erase_if(jobs, [&](const Job& job) { return log->has(job.index); });
      const auto keep = [&](Result result) {
        const Written written{std::move(result.tokens), std::move(result.text), std::move(result.finish_reason)};
        log->put(result.index, json::dump(written_line(written)));
      };
      const bool done = run_all(name, jobs, stop, keep, nullptr);
      log->sync();
      if (!done) return std::nullopt;
      log->finish();
    }
    // Read back, so that a study that went on sees what one that did not go on sees.
    std::vector<Written> out;
    for_each_line(name, *log, [&](int64_t, const json::Ref& line) { out.push_back(read_written(line)); });
    return out;
  }

  // Mistakes or paraphrases that the model or a command writes.
  bool alter_stage(Alteration alteration, const std::string& name) {
    const AlterSource& source = study_.source(alteration);
    const std::vector<AlterRequest> requests = study_.alter_requests(alteration);
    if (source.kind == AlterSource::Kind::rule || requests.empty()) return true;
    std::vector<std::string> texts;
    if (source.kind == AlterSource::Kind::model) {
      auto written = write_stage(name, study_.alter_jobs(alteration), {"\n"});
      if (!written) return false;
      for (Written& one : *written) texts.push_back(std::move(one.text));
    } else if (!command_stage(alteration, name, source.command, requests, texts)) {
      return false;
    }
    study_.set_altered(alteration, std::move(texts));
    return true;
  }

  bool command_stage(Alteration alteration, const std::string& name, const std::vector<std::string>& command,
                     const std::vector<AlterRequest>& requests, std::vector<std::string>& texts) {
    LineRules rules;
    rules.n_lines = static_cast<int64_t>(requests.size());
    rules.check_line = [](int64_t, const json::Ref& line) { read_altered(line); };
    const std::unique_ptr<LineLog> log = open_stage(name, std::move(rules));
    std::vector<std::string> ids;
    for (const AlterRequest& request : requests) ids.push_back(request.record);
    take_from_shards(name, *log, ids);
    if (!log->whole()) {
      if (events_.on_stage) events_.on_stage(name, log->n_lines() - log->n_known());
      const bool done = run_commands(alteration, command, requests, *log);
      log->sync();
      if (!done) return false;
      log->finish();
    }
    for_each_line(name, *log, [&](int64_t, const json::Ref& line) { texts.push_back(read_altered(line)); });
    return true;
  }

  // Of the lines that are not known yet, several at once. False when interrupted. Throws the first Error.
  bool run_commands(Alteration alteration, const std::vector<std::string>& command,
                    const std::vector<AlterRequest>& requests, LineLog& log) {
    std::vector<int64_t> open;
    for (int64_t i = 0; i < log.n_lines(); ++i)
      if (!log.has(i)) open.push_back(i);
    std::mutex mutex;
    std::exception_ptr failed;
    size_t next = 0, done = 0;
    const auto work = [&] {
      for (std::unique_lock lock(mutex); !failed && !interrupted() && next < open.size();) {
        const int64_t line = open[next++];
        lock.unlock();
        std::string text;
        std::exception_ptr error;
        try {
          text = run_alter_command(command, study_.options().alter_timeout, alteration,
                                   requests[static_cast<size_t>(line)]);
        } catch (...) {
          error = std::current_exception();
        }
        lock.lock();
        try {
          if (!error) log.put(line, json::dump(json::Value::object().set("text", text)));
          if (!error && events_.on_progress) events_.on_progress(static_cast<int64_t>(++done));
        } catch (...) {
          error = std::current_exception();
        }
        if (error && !failed) failed = error;
      }
    };
    std::vector<std::thread> threads;
    for (int t = 1; t < study_.options().threads; ++t) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
    if (failed) std::rethrow_exception(failed);
    return log.whole();
  }

  bool interrupted() const { return options_.interrupted && *options_.interrupted; }

  bool score_stage(const std::string& name, std::vector<Job> jobs) {
    std::vector<int64_t> n_tokens;
    for (const Job& job : jobs) n_tokens.push_back(job.n_given() - job.score()->from);
    LineRules rules;
    rules.n_lines = static_cast<int64_t>(jobs.size());
    rules.check_line = [&](int64_t i, const json::Ref& line) { read_score(line, n_tokens[static_cast<size_t>(i)]); };
    const std::unique_ptr<LineLog> log = open_stage(name, std::move(rules));
    take_from_shards(name, *log, ids_of(jobs));
    if (!log->whole()) {
      std::erase_if(jobs, [&](const Job& job) { return log->has(job.index); });
      const auto keep = [&](Result result) { log->put(result.index, json::dump(score_line(result))); };
      const bool done = run_all(name, jobs, {}, keep, nullptr);
      log->sync();
      if (!done) return false;
      log->finish();
    }
    std::vector<double> logprobs;
    for_each_line(name, *log, [&](int64_t i, const json::Ref& line) {
      logprobs.push_back(read_score(line, n_tokens[static_cast<size_t>(i)]));
    });
    study_.set_scores(logprobs);
    return true;
  }

  bool compare_routes() {
    const std::string name = "8-route";
    const size_t n = study_.explanations().size();
    const std::vector<size_t> cases = study_.route_cases(0, n);
    LineRules rules;
    rules.n_lines = static_cast<int64_t>(cases.size());
    rules.check_line = [&](int64_t i, const json::Ref& line) { read_route(line, cases[static_cast<size_t>(i)]); };
    const std::unique_ptr<LineLog> log = open_stage(name, std::move(rules));
    take_routes_from_shards(name, *log, cases);
    int64_t first = 0;  // line of the block's first case
    for (size_t begin = 0; begin < n; begin += route_block) {
      const size_t end = std::min(begin + route_block, n);
      const int64_t past = first + static_cast<int64_t>(study_.route_cases(begin, end).size());
      bool known = true;
      for (int64_t i = first; i < past; ++i) known = known && log->has(i);
      if (!known && !compare_block(name, begin, end, *log, first)) return false;
      for (int64_t i = first; i < past; ++i) {
        const std::string where = name + ".jsonl:" + std::to_string(i + 1);
        const json::Value line = json::parse(log->line(i), where);
        const size_t index = cases[static_cast<size_t>(i)];
        Compared compared = read_route(json::Ref(line, where), index);
        study_.set_compared(index, std::move(compared.likeness), compared.distance);
      }
      first = past;
    }
    log->finish();
    return true;
  }

  // The explanations begin .. end - 1, whose lines begin at `first`.
  bool compare_block(const std::string& name, size_t begin, size_t end, LineLog& log, int64_t first) {
    const FaithfulnessStudy::RouteJobs jobs = study_.route_jobs(begin, end);
    LastRoutes routes(study_.shape(), jobs.first_row, jobs.n_rows);
    const std::string what = name + " " + std::to_string(begin) + " of " + std::to_string(study_.explanations().size());
    MisrouteDistances distances(study_.shape(), jobs.misrouted);
    TwoSinks sinks(routes, distances);
    if (!run_all(what, jobs.jobs, {}, nullptr, &sinks)) {
      log.sync();
      return false;
    }
    study_.set_routes(jobs, routes, distances);
    for (size_t i = 0; i < jobs.cases.size(); ++i) {
      const int64_t line = first + static_cast<int64_t>(i);
      const FaithCase& one = study_.cases()[jobs.cases[i]];
      if (!log.has(line)) log.put(line, json::dump(route_line(jobs.cases[i], one.likeness, one.distance)));
    }
    return true;
  }

  FaithfulnessStudy& study_;
  Forward& forward_;
  RunOptions& options_;
  const StudyWork& work_;
  const StudyEvents& events_;
  std::optional<StudyShards> shards_;  // checked before the directory is made
  std::vector<std::string> kept_;      // stages of which nothing is missing
  bool told_kept_ = false;
  WorkDirectory directory_;
  std::map<std::string, size_t> record_index_;
};

}  // namespace

std::optional<FaithfulnessFindings> conduct_study(FaithfulnessStudy& study, Forward& forward, RunOptions options,
                                                  const StudyWork& work, const StudyEvents& events) {
  return StudyRun(study, forward, options, work, events).run();
}

std::map<std::string, int64_t> study_kept(const StudyWork& work, const Shard& shard) {
  check_work(work.out, manifest_of(work, shard));
  std::map<std::string, int64_t> kept;
  if (!fs::exists(work.out / "stages")) return kept;
  for (const auto& entry : fs::directory_iterator(work.out / "stages")) {
    const std::string name = entry.path().filename().string();
    std::string_view line;
    for (LineReader reader(entry.path()); reader.next(line) && reader.terminated();)
      ++kept[name.substr(0, name.find('.'))];
  }
  return kept;
}

}  // namespace signalbox::eval
