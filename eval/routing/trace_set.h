// One or several trace directories of one model as one pool, with the records that they were made of.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "probes/phase.h"
#include "probes/trace.h"

namespace signalbox::eval {

// "all", "given" or "generated"; `where` starts the message of the Error for anything else.
Phase parse_phase(std::string_view text, const std::string& where);

// Which tokens count: all conditions must hold.
struct TokenFilter {
  std::string span;  // only tokens of this span; empty = all
  Phase phase = Phase::all;
};

// A record of the pool: empty strings where records.jsonl has no such key.
struct TraceRecord {
  std::string id, condition, pair, domain;
  // Hashes of its prompt as PromptList takes them: of texts.jsonl's text where that is there and the line has messages
  // or tokens, then of the line; empty where the line has no prompt.
  std::vector<std::string> prompts = {};
};

// A sample of the pool: rows(index) of trace(trace), made of records()[record].
struct TraceSample {
  size_t trace = 0;
  int64_t index = 0;
  size_t record = 0;
};

class TraceSet {
 public:
  // Opens DIR/trace.safetensors and DIR/records.jsonl of each directory. Throws Error when a file is missing or broken,
  // when a line of records.jsonl is not of the sample in its place, when a trace holds no routes, or when traces differ
  // in model_hash, experts or recorded layers. Lines that are equal as JSON, in one trace or in several, are one record
  // with several samples.
  explicit TraceSet(const std::vector<std::filesystem::path>& directories);

  size_t n_traces() const { return traces_.size(); }
  const TraceReader& trace(size_t i) const { return *traces_[i]; }
  const std::filesystem::path& directory(size_t i) const { return directories_[i]; }

  const std::vector<TraceRecord>& records() const { return records_; }  // in order of first appearance
  const std::vector<TraceSample>& samples() const { return samples_; }  // traces in order, samples within
  const std::vector<int32_t>& layers() const { return traces_[0]->layers(); }
  int32_t n_experts() const { return traces_[0]->n_experts(); }
  // Rows of every table by expert: layers().size() * n_experts().
  size_t n_rows() const { return layers().size() * static_cast<size_t>(n_experts()); }
  bool has(std::string_view tensor) const;  // in all traces
  // Replaces TraceRecord::prompts of the records that have these ids: for whoever knows what the model saw.
  void name_prompts(const std::map<std::string, std::vector<std::string>>& by_id);
  // Conditions and domains of records, without the empty one, in order of first appearance.
  std::vector<std::string> conditions() const;
  std::vector<std::string> domains() const;

 private:
  void read_records_of(size_t trace, std::map<std::string, size_t>& seen);
  std::vector<std::filesystem::path> directories_;
  std::vector<std::unique_ptr<TraceReader>> traces_;
  std::vector<TraceRecord> records_;
  std::vector<TraceSample> samples_;
};

// [rows] 1 where the token counts. Throws Error when the trace does not know the span.
std::vector<uint8_t> counted_tokens(const TraceReader& trace, TraceReader::Rows rows, const TokenFilter& filter);

// Calls take(sample, rows, counted) for all rows of every sample, in order and in blocks, so that memory does not grow
// with the samples; counted [rows] as of counted_tokens.
void for_each_block(
    const TraceSet& set, const TokenFilter& filter,
    const std::function<void(const TraceSample&, TraceReader::Rows, const std::vector<uint8_t>& counted)>& take);
inline constexpr int64_t block_rows = 4096;

// For summaries, a member a trace: model, model_hash, edits, samples, tokens.
json::Value traces_summary(const TraceSet& set);

}  // namespace signalbox::eval
