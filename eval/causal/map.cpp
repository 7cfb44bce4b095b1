#include "eval/causal/map.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "eval/causal/slot_cells.h"
#include "eval/causal/slot_slopes.h"
#include "eval/routing/trace_texts.h"
#include "eval/store/line_log.h"
#include "eval/store/staged_files.h"
#include "eval/store/work_directory.h"
#include "probes/trace_schema.h"

namespace signalbox::eval {

namespace fs = std::filesystem;

using namespace engine;

namespace {

constexpr std::array<std::pair<Without, std::string_view>, 3> kinds_by_name = {
    {{Without::hole, "hole"}, {Without::ban, "ban"}, {Without::mean, "mean"}}};
constexpr const char* map_stages = "stages";

// Whether a token of a record is among those asked for.
bool counts(const MapRequest& request, const EncodedRecord& record, int64_t position) {
  if (position < request.first_position || position >= request.end_position) return false;
  if (request.span.empty()) return true;
  return std::any_of(record.spans.begin(), record.spans.end(), [&](const SpanTokens& span) {
    return span.name == request.span && position >= span.begin && position < span.end;
  });
}

// A line of the stage "cells": the slots of one token in one layer.
struct CellLine {
  int32_t record = 0, layer = 0, position = 0;  // layer: index
};

float number_or_nan(const json::Ref& value) {
  return value.is_null() ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(value.number());
}

template <class T>
json::Value numbers_json(const T* values, int64_t n) {
  json::Value list = json::Value::array();
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (std::is_same_v<T, float>)
      list.push_back(static_cast<double>(values[i]));
    else
      list.push_back(static_cast<int64_t>(values[i]));
  }
  return list;
}

void check_length(const json::Ref& list, int64_t n) {
  if (static_cast<int64_t>(list.length()) != n)
    list.fail("expected " + std::to_string(n) + " items, found " + std::to_string(list.length()));
}

class MapRun {
 public:
  MapRun(const Session& session, const std::vector<Record>& records, const RecordJobs& made, const MapRequest& request)
      : session_(session), records_(records), made_(made), request_(request), k_(session.model.n_active()) {
    for (size_t i = 0; i < made.jobs.size(); ++i)
      rows_.push_back(metric_rows(request.metric, records[i], made.encoded[i], session.encode));
    require_own_directory(request.dir,
                          {map_file, map_summary_file, map_experts_file, records_file, texts_file, map_stages,
                           manifest_file, "log.txt", "report.html", DirectoryLock::file_name},
                          "a map");
    Manifest manifest = request.manifest;
    manifest.schema = map_schema;
    Layout layout;
    layout.seeds = {request.sample ? request.sample->seed : 0};
    layout.interventions = {std::string(without_name(request.without))};
    for (const Record& record : records) layout.records.push_back(record.id);
    layout.samples.assign(records.size(), 1);
    layout.index();
    manifest.layout = std::move(layout);
    work_ = std::make_unique<WorkDirectory>(request.dir, std::move(manifest));
    begin_table();
  }

  MapResult run() {
    MapResult result;
    if (work_->complete() && files_are_there()) {
      fs::remove_all(request_.dir / map_stages);  // of a process that was killed at its end
      result.was_complete = true;
      result.counts = count_map(read_map(request_.dir));
      return result;
    }
    work_->reopen();
    made_directory(request_.dir / map_stages);
    if ((request_.sample && !estimate()) || !run_cells()) {
      work_->finish(RunStatus::interrupted);
      result.interrupted = true;
      return result;
    }
    write();
    result.counts = count_map(table_);
    return result;
  }

 private:
  bool interrupted() const { return request_.interrupted && *request_.interrupted; }
  bool files_are_there() const {
    const char* const files[] = {map_file, map_summary_file, map_experts_file, records_file, texts_file};
    return std::all_of(std::begin(files), std::end(files),
                       [&](const char* file) { return fs::exists(request_.dir / file); });
  }

  void begin_table() {
    table_.n_experts = session_.model.n_experts();
    table_.n_active = k_;
    table_.n_layers = session_.model.n_layers();
    table_.routed_layers = session_.model.moe_layers();
    table_.layers = request_.layers;
    table_.sample = request_.sample;
    for (size_t i = 0; i < made_.jobs.size(); ++i) {
      table_.ids.push_back(records_[i].id);
      const std::vector<int32_t>& tokens = made_.jobs[i].prompt->tokens;
      table_.tokens.insert(table_.tokens.end(), tokens.begin(), tokens.end());
      table_.offsets.push_back(static_cast<int64_t>(table_.tokens.size()));
    }
    table_.base.resize(table_.ids.size());
    table_.experts.assign(table_.n_cells(), -1);
    table_.effect.assign(table_.n_cells(), std::numeric_limits<float>::quiet_NaN());
    table_.flips.assign(table_.n_cells(), -1);
    table_.settings.set("metric", std::string(metric_name(request_.metric)))
        .set("without", std::string(without_name(request_.without)))
        .set("model", session_.label)
        .set("model_hash", session_.model_hash)
        .set("reference", request_.without == Without::mean ? json::Value(request_.reference) : json::Value())
        .set("span", request_.span)
        .set("first_position", request_.first_position)
        .set("end_position", request_.end_position == std::numeric_limits<int64_t>::max()
                                 ? json::Value()
                                 : json::Value(request_.end_position));
  }

  size_t cell(const CellLine& line) const {
    const auto token = static_cast<size_t>(table_.offsets[static_cast<size_t>(line.record)] + line.position);
    return (token * table_.layers.size() + static_cast<size_t>(line.layer)) * static_cast<size_t>(k_);
  }

  std::unique_ptr<LineLog> open_stage(const std::string& name, LineRules rules) {
    rules.name = [name](int64_t line) { return "line " + std::to_string(line + 1) + " of " + name; };
    const fs::path stem = request_.dir / map_stages / name;
    auto log = std::make_unique<LineLog>(stem.string() + ".jsonl", stem.string() + ".journal.jsonl", std::move(rules));
    work_->log(name + ": " + std::to_string(log->n_known()) + " of " + std::to_string(log->n_lines()) + " lines known");
    return log;
  }

  static json::Value parsed(const LineLog& log, int64_t line, const std::string& where) {
    return json::parse(log.line(line), where);
  }

  // First-order estimates of all cells, and with them the sample. False when interrupted.
  bool estimate() {
    table_.estimate.assign(table_.n_cells(), std::numeric_limits<float>::quiet_NaN());
    const auto width = [&](int64_t i) {
      return made_.jobs[static_cast<size_t>(i)].n_given() * static_cast<int64_t>(table_.row());
    };
    LineRules rules;
    rules.n_lines = static_cast<int64_t>(made_.jobs.size());
    rules.check_line = [&](int64_t i, const json::Ref& line) {
      line.reject_unknown({"id", "atp", "experts"});
      if (line.at("id").string() != table_.ids[static_cast<size_t>(i)]) line.fail("expected another record's line");
      check_length(line.at("atp"), width(i));
      check_length(line.at("experts"), width(i));
    };
    const std::unique_ptr<LineLog> log = open_stage("atp", std::move(rules));
    int64_t done = 0;
    if (request_.on_stage) request_.on_stage("estimating", "tokens", static_cast<int64_t>(table_.tokens.size()));
    SlotSlopes slopes(session_, request_.layers,
                      request_.without == Without::mean ? request_.mean_contribution : SlotSlopes::MeanContribution());
    for (size_t i = 0; i < made_.jobs.size(); ++i) {
      if (interrupted()) return false;
      const auto line = static_cast<int64_t>(i);
      if (!log->has(line)) {
        std::vector<uint8_t> asked;
        for (int64_t t = 0; t < made_.jobs[i].n_given(); ++t) asked.push_back(counts(request_, made_.encoded[i], t));
        const SlotSlopes::Found found = slopes.of(made_.jobs[i], rows_[i], asked);
        log->put(line, json::dump(json::Value::object()
                                      .set("id", table_.ids[i])
                                      .set("atp", numbers_json(found.estimates.data(), width(line)))
                                      .set("experts", numbers_json(found.experts.data(), width(line)))));
      }
      const std::string where = "atp.jsonl:" + std::to_string(i + 1);
      const json::Value value = parsed(*log, line, where);
      const json::Ref of(value, where);
      const size_t first = static_cast<size_t>(table_.offsets[i]) * table_.row();
      size_t at = first;
      for (const json::Ref& x : of.at("atp").items()) table_.estimate[at++] = number_or_nan(x);
      at = first;
      for (const json::Ref& x : of.at("experts").items()) table_.experts[at++] = static_cast<int32_t>(x.integer());
      done += made_.jobs[i].n_given();
      if (request_.on_progress) request_.on_progress(done);
    }
    log->finish();
    table_.chosen = choose_cells(table_, *request_.sample);
    return true;
  }

  bool wanted(size_t index) const {
    return !request_.sample || table_.chosen[index] != static_cast<uint8_t>(Chosen::no);
  }

  std::vector<CellLine> cell_lines() const {
    std::vector<CellLine> lines;
    for (size_t i = 0; i < made_.jobs.size(); ++i)
      for (size_t l = 0; l < table_.layers.size(); ++l)
        for (int64_t t = 0; t < made_.jobs[i].n_given(); ++t) {
          if (!counts(request_, made_.encoded[i], t)) continue;
          const CellLine line{static_cast<int32_t>(i), static_cast<int32_t>(l), static_cast<int32_t>(t)};
          bool any = false;
          for (int64_t slot = 0; slot < k_; ++slot) any = any || wanted(cell(line) + static_cast<size_t>(slot));
          if (any) lines.push_back(line);
        }
    return lines;
  }

  // False when interrupted.
  bool run_cells() {
    const std::vector<CellLine> lines = cell_lines();
    LineRules rules;
    rules.n_lines = static_cast<int64_t>(lines.size());
    rules.check_line = [&](int64_t i, const json::Ref& line) {
      const CellLine& of = lines[static_cast<size_t>(i)];
      line.reject_unknown({"id", "layer", "position", "effect", "flips"});
      if (line.at("id").string() != table_.ids[static_cast<size_t>(of.record)] ||
          line.at("layer").integer() != table_.layers[static_cast<size_t>(of.layer)] ||
          line.at("position").integer() != of.position)
        line.fail("expected the line of another cell");
      check_length(line.at("effect"), k_);
      check_length(line.at("flips"), k_);
    };
    const std::unique_ptr<LineLog> log = open_stage("cells", std::move(rules));
    kept_ = log->n_known();
    if (kept_ > 0 && request_.on_kept)
      request_.on_kept(std::to_string(kept_) + " of " + std::to_string(log->n_lines()) + " places");
    if (request_.on_stage) request_.on_stage("mapping", "places", log->n_lines());
    if (request_.on_progress) request_.on_progress(kept_);
    for (size_t begin = 0; begin < lines.size();) {
      size_t end = begin;
      while (end < lines.size() && lines[end].record == lines[begin].record) ++end;
      if (!run_record(std::span(lines).subspan(begin, end - begin), static_cast<int64_t>(begin), *log)) {
        log->sync();
        return false;
      }
      begin = end;
    }
    for (size_t i = 0; i < made_.jobs.size(); ++i) {  // records of which no cell is asked for
      if (interrupted()) return false;
      if (!mapped_.contains(i)) take_base(i, SlotCells(session_, made_.jobs[i], rows_[i], request_));
    }
    log->finish();
    return true;
  }

  void take_base(size_t record, const SlotCells& cells) {
    table_.base[record] = cells.base();
    std::copy(
        cells.experts().begin(), cells.experts().end(),
        table_.experts.begin() + static_cast<int64_t>(static_cast<size_t>(table_.offsets[record]) * table_.row()));
    mapped_.insert(record);
  }

  // The lines first, ... of one record. False when interrupted.
  bool run_record(std::span<const CellLine> lines, int64_t first, LineLog& log) {
    const auto record = static_cast<size_t>(lines.front().record);
    SlotCells cells(session_, made_.jobs[record], rows_[record], request_);
    take_base(record, cells);
    std::vector<SlotCell> todo;
    std::vector<int64_t> line_of;                // of each of them, within the record
    std::vector<int64_t> open(lines.size(), 0);  // cells of a line that are not done
    for (size_t i = 0; i < lines.size(); ++i) {
      if (log.has(first + static_cast<int64_t>(i))) continue;
      for (int64_t slot = 0; slot < k_; ++slot) {
        const SlotCell one{static_cast<size_t>(lines[i].layer), lines[i].position, slot};
        if (!wanted(cell(lines[i]) + static_cast<size_t>(slot)) || !cells.can_take(one)) continue;
        todo.push_back(one);
        line_of.push_back(static_cast<int64_t>(i));
        ++open[i];
      }
      if (open[i] == 0) keep(lines[i], first + static_cast<int64_t>(i), log);
    }
    const bool whole = cells.run(todo, [&](size_t i, float effect, int32_t flips) {
      const auto of = static_cast<size_t>(line_of[i]);
      const size_t index = cell(lines[of]) + static_cast<size_t>(todo[i].slot);
      table_.effect[index] = effect;
      table_.flips[index] = flips;
      if (--open[of] == 0) keep(lines[of], first + line_of[i], log);
    });
    if (!whole) return false;
    for (size_t i = 0; i < lines.size(); ++i) {
      const std::string where = "cells.jsonl:" + std::to_string(first + static_cast<int64_t>(i) + 1);
      const json::Value value = parsed(log, first + static_cast<int64_t>(i), where);
      const json::Ref of(value, where);
      for (int64_t slot = 0; slot < k_; ++slot) {
        const size_t index = cell(lines[i]) + static_cast<size_t>(slot);
        table_.effect[index] = number_or_nan(of.at("effect")[static_cast<size_t>(slot)]);
        table_.flips[index] = static_cast<int32_t>(of.at("flips")[static_cast<size_t>(slot)].integer());
      }
    }
    return true;
  }

  void keep(const CellLine& line, int64_t index, LineLog& log) {
    const size_t at = cell(line);
    log.put(index, json::dump(json::Value::object()
                                  .set("id", table_.ids[static_cast<size_t>(line.record)])
                                  .set("layer", int64_t{table_.layers[static_cast<size_t>(line.layer)]})
                                  .set("position", int64_t{line.position})
                                  .set("effect", numbers_json(table_.effect.data() + at, k_))
                                  .set("flips", numbers_json(table_.flips.data() + at, k_))));
    if (request_.on_progress) request_.on_progress(log.n_known());
  }

  void write() {
    const auto lines = [&](const char* name, auto line) {
      AtomicFile file(request_.dir / name);
      for (size_t i = 0; i < made_.jobs.size(); ++i) file.write(json::dump(line(i)) + "\n");
      file.commit();
    };
    lines(records_file, [&](size_t i) { return records_[i].source; });
    lines(texts_file, [&](size_t i) {
      return text_line(records_[i], made_.encoded[i], made_.jobs[i], {}, session_.tokenizer.get());
    });
    write_map(request_.dir, table_);
    work_->finish(RunStatus::complete);
    fs::remove_all(request_.dir / map_stages);
  }

  const Session& session_;
  const std::vector<Record>& records_;
  const RecordJobs& made_;
  const MapRequest& request_;
  int64_t k_;
  std::vector<MetricRows> rows_;
  std::unique_ptr<WorkDirectory> work_;
  MapTable table_;
  std::set<size_t> mapped_;  // records whose unedited run is known
  int64_t kept_ = 0;
};

}  // namespace

Without parse_without(std::string_view name, const std::string& where) {
  for (const auto& [without, known] : kinds_by_name)
    if (known == name) return without;
  throw Error(where, "expected hole, ban or mean, found \"" + std::string(name) + "\"");
}

std::string_view without_name(Without without) { return kinds_by_name[static_cast<size_t>(without)].second; }

int64_t count_cells(const Session& session, const RecordJobs& made, const MapRequest& request) {
  int64_t tokens = 0;
  for (size_t i = 0; i < made.jobs.size(); ++i)
    for (int64_t t = 0; t < made.jobs[i].n_given(); ++t) tokens += counts(request, made.encoded[i], t);
  int64_t slots = 0;
  for (const int32_t layer : request.layers)
    slots += session.model.layers[static_cast<size_t>(layer)].moe()->router.n_active;
  return tokens * slots;
}

MapResult map_effects(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
                      const MapRequest& request) {
  return MapRun(session, records, made, request).run();
}

}  // namespace signalbox::eval
