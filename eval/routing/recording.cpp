#include "eval/routing/recording.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "eval/routing/trace_texts.h"
#include "eval/store/line_log.h"
#include "eval/store/work_directory.h"
#include "probes/trace_schema.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

constexpr const char* finished_file = "finished.jsonl";
constexpr const char* journal_file = "journal.jsonl";
constexpr std::array own_files = {trace_file,     records_file, texts_file,   rows_spool,
                                  patterns_spool, journal_file, finished_file};

void remove_file(const fs::path& file) {
  std::error_code failed;
  fs::remove(file, failed);
  if (failed) throw Error(file.string(), "cannot remove the file: " + failed.message());
}

// Passes everything on to the trace and tells when a batch is over.
class Watched : public ProbeSink {
 public:
  Watched(TraceWriter& next, std::function<void()> on_end) : next_(next), on_end_(std::move(on_end)) {}
  bool wants(Point point, int32_t layer) const override { return next_.wants(point, layer); }
  void begin(const StepRows& rows) override { next_.begin(rows); }
  void take(Point point, int32_t layer, const float* data, int64_t width) override {
    next_.take(point, layer, data, width);
  }
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override {
    next_.take_ids(layer, ids, original_ids, n_slots);
  }
  void end() override {
    next_.end();
    on_end_();
  }
  void abandon() override { next_.abandon(); }

 private:
  TraceWriter& next_;
  std::function<void()> on_end_;
};

// The member "text", the last one of a line, as it stands there: what comes before it holds no text.
std::string text_of(const std::string& line) {
  constexpr std::string_view key = ",\"text\":";
  const size_t at = line.find(key) + key.size();
  return line.substr(at, line.size() - 1 - at);
}

bool has_end(const fs::path& dir) {
  return fs::exists(dir / trace_file) && fs::exists(dir / records_file) && fs::exists(dir / texts_file);
}

class SampleRecorder {
 public:
  SampleRecorder(const TraceRecording& recording, Forward& forward, const RunOptions& options,
                 const RecordingEvents& events)
      : recording_(recording), forward_(forward), options_(options), events_(events), dir_(recording.trace.dir) {}

  RecordingEnd run() {
    if (is_recorded(dir_)) {
      tell_all();
      return RecordingEnd::was_complete;
    }
    TraceOptions trace = recording_.trace;
    trace.resumable = true;
    writer_.emplace(std::move(trace));
    log_.emplace(dir_ / finished_file, dir_ / journal_file, rules());
    take_up();
    tell_ready();
    if (!run_rest()) {
      writer_->sync();
      log_->sync();
      return RecordingEnd::interrupted;
    }
    finish();
    return RecordingEnd::complete;
  }

 private:
  int64_t n_jobs() const { return static_cast<int64_t>(recording_.jobs.size()); }
  const Job& job(int64_t sample) const { return recording_.jobs[static_cast<size_t>(sample)]; }
  void note(const std::string& line) const {
    if (events_.on_note) events_.on_note(line);
  }

  LineRules rules() const {
    LineRules rules;
    rules.n_lines = n_jobs();
    rules.name = [this](int64_t sample) {
      return "record \"" + job(sample).prompt->id + "\", sample " + std::to_string(job(sample).sample);
    };
    rules.check_line = [](int64_t sample, const json::Ref& line) {
      line.reject_unknown({"index", "text", "settled"});
      if (line.at("index").integer() != sample)
        line.at("index").fail("expected " + std::to_string(sample) + ", found another");
    };
    return rules;
  }

  json::Value line_of(int64_t sample) const {
    return json::parse(log_->line(sample), (dir_ / finished_file).string() + ", sample " + std::to_string(sample));
  }

  // What an earlier process has settled. Rows that did not reach the disk are run again.
  void take_up() {
    if (log_->cut_bytes() > 0) note("cut off torn lines of " + std::to_string(log_->cut_bytes()) + " bytes");
    std::vector<bool> lost(static_cast<size_t>(n_jobs()), false);
    int64_t n_lost = 0, tokens = 0;
    for (int64_t i = 0; i < n_jobs(); ++i) {
      if (!log_->has(i)) continue;
      const json::Value line = line_of(i);
      if (writer_->restore(i, json::Ref(line, (dir_ / finished_file).string()).at("settled"))) {
        tokens += job(i).max_positions();
      } else {
        lost[static_cast<size_t>(i)] = true;
        ++n_lost;
      }
    }
    if (n_lost > 0) forget(lost);
    done_ = tokens;
    if (n_lost > 0) note("the rows of " + std::to_string(n_lost) + " samples are not as they were: run again");
    note(std::to_string(log_->n_known()) + " of " + std::to_string(n_jobs()) + " samples known");
    if (log_->n_known() > 0 && events_.on_kept) events_.on_kept(log_->n_known(), tokens);
  }

  // Lines are never changed: those that are left move to a new journal.
  void forget(const std::vector<bool>& lost) {
    AtomicFile journal(dir_ / journal_file);
    for (int64_t i = 0; i < n_jobs(); ++i)
      if (log_->has(i) && !lost[static_cast<size_t>(i)])
        journal.write("[" + std::to_string(i) + "," + log_->line(i) + "]\n");
    journal.commit();
    log_.reset();
    remove_file(dir_ / finished_file);
    log_.emplace(dir_ / finished_file, dir_ / journal_file, rules());
  }

  // False when interrupted.
  bool run_rest() {
    std::vector<Job> rest;
    for (const Job& one : recording_.jobs)
      if (!log_->has(one.index)) rest.push_back(one);
    if (rest.empty()) return true;
    Watched watched(*writer_, [this] { settle(); });
    RunEvents run;
    run.on_token = events_.on_token;
    run.on_progress = [this](int64_t tokens) {
      if (events_.on_progress) events_.on_progress(done_ + tokens);
    };
    run.on_done = [this](Result result) {
      const int64_t sample = result.index;
      waiting_.emplace(sample, std::move(result));
      settle();
    };
    ProbeSink* sink = events_.in_front ? events_.in_front(&watched) : &watched;
    if (!run_jobs(forward_, rest, options_, run, sink)) return false;
    if (!waiting_.empty())
      throw Error(dir_.string(), "expected all rows of " + rules().name(waiting_.begin()->first) + ", found " +
                                     std::to_string(writer_->n_rows(waiting_.begin()->first)));
    return true;
  }

  // Samples that are done and whose rows have arrived; a device hands these over some steps later.
  void settle() {
    for (auto one = waiting_.begin(); one != waiting_.end();) {
      const auto& [sample, result] = *one;
      if (writer_->n_rows(sample) < job(sample).n_given() + static_cast<int64_t>(result.tokens.size())) {
        ++one;
        continue;
      }
      json::Value line = json::Value::object();
      line.set("index", sample).set("settled", writer_->settle(sample)).set("text", recording_.text(sample, result));
      log_->put(sample, json::dump(line));
      if (events_.on_result) times_[sample] = {result.prefill_seconds, result.decode_seconds};
      one = waiting_.erase(one);
    }
    tell_ready();
  }

  // Results in order, as far as all before them are known.
  void tell_ready() {
    if (!events_.on_result) return;
    for (; n_told_ < log_->n_written(); ++n_told_) {
      const json::Value line = line_of(n_told_);
      tell(n_told_, json::Ref(line, (dir_ / finished_file).string()).at("text"));
    }
  }

  void tell(int64_t sample, const json::Ref& text) {
    Result result = result_of_line(text, job(sample));
    if (const auto time = times_.find(sample); time != times_.end()) {
      std::tie(result.prefill_seconds, result.decode_seconds) = time->second;
      times_.erase(time);
    }
    events_.on_result(std::move(result));
  }

  void tell_all() {
    if (!events_.on_result) return;
    LineReader reader(dir_ / texts_file);
    std::string_view text;
    for (int64_t i = 0; i < n_jobs(); ++i) {
      if (!reader.next(text))
        throw Error((dir_ / texts_file).string(),
                    "expected " + std::to_string(n_jobs()) + " lines, found " + std::to_string(i));
      const json::Value line = json::parse(text, reader.where());
      tell(i, json::Ref(line, reader.where()));
    }
  }

  void finish() {
    note("writing the trace");
    {
      AtomicFile texts(dir_ / texts_file);
      for (int64_t i = 0; i < n_jobs(); ++i) texts.write(text_of(log_->line(i)) + "\n");
      texts.commit();
    }
    std::vector<std::string> ids;
    for (const Job& one : recording_.jobs) ids.push_back(one.prompt->id);
    writer_->finish(ids, recording_.record);
    log_.reset();
    is_recorded(dir_);
  }

  const TraceRecording& recording_;
  Forward& forward_;
  const RunOptions& options_;
  const RecordingEvents& events_;
  const fs::path dir_;
  std::optional<TraceWriter> writer_;
  std::optional<LineLog> log_;
  std::map<int64_t, Result> waiting_;                   // done, but not all rows are there
  std::map<int64_t, std::pair<double, double>> times_;  // of this process, until they are told
  int64_t n_told_ = 0;
  int64_t done_ = 0;  // tokens of samples that were known
};

}  // namespace

int64_t tokens_to_record(const std::vector<Job>& jobs) {
  int64_t total = 0;
  for (const Job& job : jobs) total += job.max_positions();
  return total;
}

// The trace takes its name last: where it stands, so do the other files, and nothing of how it was made is needed.
bool is_recorded(const fs::path& dir) {
  if (!has_end(dir)) return false;
  for (const char* name : {rows_spool, patterns_spool, journal_file, finished_file}) remove_file(dir / name);
  return true;
}

RecordingEnd record_trace(const TraceRecording& recording, Forward& forward, const RunOptions& options,
                          const RecordingEvents& events) {
  return SampleRecorder(recording, forward, options, events).run();
}

int64_t samples_recorded(const TraceRecording& recording, const Manifest& manifest) {
  const fs::path& dir = recording.trace.dir;
  check_work(dir, manifest, own_files);
  if (has_end(dir)) return static_cast<int64_t>(recording.jobs.size());
  std::set<int64_t> known;
  std::string_view line;
  if (fs::exists(dir / finished_file))
    for (LineReader reader(dir / finished_file); reader.next(line) && reader.terminated();)
      known.insert(static_cast<int64_t>(known.size()));
  if (fs::exists(dir / journal_file))
    for (LineReader reader(dir / journal_file); reader.next(line) && reader.terminated();)
      known.insert(split_journal_line(line, reader.where()).line);
  return static_cast<int64_t>(known.size());
}

RecordingEnd record_trace(const TraceRecording& recording, const Manifest& manifest, Forward& forward,
                          const RunOptions& options, const RecordingEvents& events) {
  WorkDirectory directory(recording.trace.dir, manifest, own_files);
  const bool was_complete = directory.complete() && is_recorded(directory.path());
  if (!was_complete) directory.reopen();
  RecordingEvents told = events;
  told.on_note = [&](const std::string& line) {
    directory.log(line);
    if (events.on_note) events.on_note(line);
  };
  const RecordingEnd end = record_trace(recording, forward, options, told);
  if (was_complete) return end;
  directory.finish(end == RecordingEnd::interrupted ? RunStatus::interrupted : RunStatus::complete);
  // The process before may have been killed behind its last file.
  return end == RecordingEnd::was_complete ? RecordingEnd::complete : end;
}

}  // namespace signalbox::eval
