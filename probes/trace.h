// The trace directory (docs/trace.md): trace.safetensors and records.jsonl, written as a stream and read back.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "kernels/tensor.h"
#include "probes/points.h"
#include "probes/recording.h"
#include "probes/shape.h"
#include "probes/sink.h"

namespace signalbox::probes {

struct TraceOptions {
  std::filesystem::path dir;  // made when it does not exist
  ModelShape shape;
  PointSet points;
  int32_t n_slots = 0;                  // width of routes: EditPlan::max_slots(), or 0 for shape.n_active()
  bool original_ids = false;            // the run carries edits: record router.original_ids beside router.ids
  bool compact = false;                 // router.weights as F16
  std::vector<std::string> span_names;  // at most 32, bit i of StepRows::spans is span_names[i]
  // Further metadata: model, model_hash, tokenizer, edits, numerics, isa, device, signalbox_version. Those absent here
  // are written as empty strings; schema, n_experts, n_active, samples and spans are the writer's own.
  std::vector<std::pair<std::string, std::string>> metadata;
  // Rows are kept in DIR/rows.spool (and DIR/patterns.spool) until finish(), for a later process to go on with.
  bool resumable = false;
  // Points whose gradient is recorded, under "grad." and their name (take_slope).
  PointSet slopes = {};
  // Numbers of each sample, F64 [S], by name: set_numbers.
  std::vector<std::string> numbers = {};
};

// Writes a trace as a stream. Rows go to a spool file in `dir`, without a name unless the trace is resumable, so memory
// does not grow with the trace; samples may arrive interleaved. finish() puts them in order, syncs, renames and removes
// spools. Without finish() nothing remains but the spools of a resumable trace. Not thread-safe. Failures to write are
// Errors that name the file.
class TraceWriter : public ProbeSink {
 public:
  explicit TraceWriter(TraceOptions options);
  ~TraceWriter() override;

  bool wants(Point point, int32_t layer) const override;
  void begin(const StepRows& rows) override;
  void take(Point point, int32_t layer, const float* data, int64_t width) override;
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override;
  // As take(), of the same batch: the gradient of a point of TraceOptions::slopes.
  void take_slope(Point point, int32_t layer, const float* data, int64_t width);
  // Before finish(): the number of each sample, of one of TraceOptions::numbers.
  void set_numbers(const std::string& name, std::vector<double> of_samples);
  void end() override;
  // finish() is refused from then on.
  void abandon() override;

  int64_t n_rows() const;                // recorded so far, over all samples
  int64_t n_rows(int64_t sample) const;  // of one sample

  // Of a resumable trace, and between batches. All rows of a sample are there: where they lie in the spools, with their
  // hash, for restore() in a later process.
  json::Value settle(int64_t sample);
  // Before the first batch: takes up a sample that an earlier process has settled under the same options. False when
  // its rows are not there as they were (after a power failure): the sample has none then. Throws Error for a value
  // that settle() does not make.
  bool restore(int64_t sample, const json::Ref& settled);
  void sync();  // the spools to disk

  // Writes the directory's files. ids[i] names sample i (ids repeat where a record has several samples); record(i) is
  // its line in records.jsonl. No other call may follow.
  void finish(std::span<const std::string> ids, const std::function<json::Value(int64_t)>& record);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Reads a trace.safetensors: everything in it is checked against the schema before the constructor returns, but for
// the values of large tensors, which accessors check as they read.
class TraceReader final : public Recording {
 public:
  // `path` is the directory or the file.
  explicit TraceReader(const std::filesystem::path& path);
  ~TraceReader() override;
  TraceReader(const TraceReader&) = delete;
  TraceReader& operator=(const TraceReader&) = delete;

  const std::string& file() const;  // for messages
  const std::string& where() const override { return file(); }
  int64_t n_tokens() const override;   // T
  int64_t n_samples() const;           // S
  int32_t n_experts() const override;  // E
  int32_t n_active() const override;
  int32_t n_slots() const override;  // k of router.ids, router.weights; 0 when neither is recorded
  bool edited() const;               // router.original_ids is there
  const std::vector<int32_t>& layers() const override;
  const std::vector<std::string>& sample_ids() const;
  const std::vector<std::string>& span_names() const;
  // A metadata string; empty when absent.
  std::string metadata(std::string_view key) const;

  Rows rows(int64_t sample) const override;
  std::optional<int64_t> find_sample(std::string_view id, int64_t nth = 0) const override;
  int64_t count_samples(std::string_view id) const override;

  std::vector<int32_t> tokens(Rows rows) const;
  std::vector<int32_t> positions(Rows rows) const override;
  std::vector<uint8_t> phase(Rows rows) const;
  std::vector<uint32_t> spans(Rows rows) const;

  bool has(std::string_view tensor) const override;
  std::vector<std::string> tensor_names() const;
  std::vector<int64_t> tensor_shape(std::string_view tensor) const override;

  // Ids beyond E, or a route that names an expert twice, are Errors.
  std::vector<int32_t> ids(Rows rows) const override { return read_ids("router.ids", rows); }
  void ids(Rows rows, std::vector<int32_t>& out) const { read_ids("router.ids", rows, out); }
  std::vector<int32_t> original_ids(Rows rows) const { return read_ids("router.original_ids", rows); }
  // Rows of any tensor of floats (F32, F16 or BF16) as f32.
  std::vector<float> floats(std::string_view tensor, Rows rows) const override;
  void floats(std::string_view tensor, Rows rows, float* out) const;
  // Null where they are not F32 or not aligned.
  const float* floats_in_place(std::string_view tensor, Rows rows) const override;
  // These rows' routes and tokens will not be wanted soon: the memory that the file takes is given back. Reading them
  // again is no error.
  void release(Rows rows) const;

 private:
  std::vector<int32_t> read_ids(std::string_view tensor, Rows rows) const;
  void read_ids(std::string_view tensor, Rows rows, std::vector<int32_t>& out) const;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace signalbox::probes
