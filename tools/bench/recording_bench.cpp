#include "tools/bench/recording_bench.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <span>

#include "tools/bench/temporary_trace.h"
#include "tools/bench/timer.h"

namespace signalbox::tools {

namespace {

// A device captures a step while it is repeated, and keeps routes on their way beside later steps: so many steps go
// before the timed ones, and the timed ones take at least so long together.
constexpr int warm_runs = 6, warm_prefills = 1;  // a prefill is never captured, and what it records is large
constexpr double least_seconds = 0.02;
constexpr int64_t most_steps = 64;

// Hands rows to a trace as if each step went on where the last ended: steps that are repeated have the same positions.
class Renumbered : public ProbeSink {
 public:
  explicit Renumbered(ProbeSink& sink) : sink_(sink) {}
  bool wants(Point point, int32_t layer) const override { return sink_.wants(point, layer); }
  void begin(const StepRows& rows) override {
    ranges_.assign(rows.ranges.begin(), rows.ranges.end());
    for (RowRange& range : ranges_) {
      int64_t& next = next_[range.sample];
      range.first_row = next;
      next += range.n_rows;
    }
    StepRows renumbered = rows;
    renumbered.ranges = ranges_;
    sink_.begin(renumbered);
  }
  void take(Point point, int32_t layer, const float* data, int64_t width) override {
    sink_.take(point, layer, data, width);
  }
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override {
    sink_.take_ids(layer, ids, original_ids, n_slots);
  }
  void end() override { sink_.end(); }
  void abandon() override { sink_.abandon(); }

 private:
  ProbeSink& sink_;
  std::vector<RowRange> ranges_;
  std::map<int64_t, int64_t> next_;  // row of each sample
};

}  // namespace

PairedCosts RecordingBench::measure(int n_warm, const std::function<void(ProbeSink*)>& work,
                                    const std::function<bool(int64_t, double)>& go_on) {
  const bool device = !forward_.backend().shares_host_memory();
  int64_t steps = 1;
  const auto run = [&](int way) {
    const TemporaryTrace directory;
    const std::unique_ptr<TraceWriter> trace =
        way > 0 ? make_trace_(modes_[static_cast<size_t>(way - 1)], directory.path.string()) : nullptr;
    std::unique_ptr<Renumbered> sink;
    if (trace) sink = std::make_unique<Renumbered>(*trace);
    if (device) {
      for (int i = 0; i < n_warm; ++i) work(sink.get());
      if (sink) forward_.flush(*sink);
    }
    const double start = now();
    for (int64_t i = 0; i < steps; ++i) work(sink.get());
    if (sink) forward_.flush(*sink);
    return now() - start;
  };
  // All ways do as many steps as the unrecorded one needs to be timed well.
  const double once = std::max(run(0), 1e-6);
  steps = std::clamp<int64_t>(static_cast<int64_t>(std::ceil(least_seconds / once)), 1, most_steps);
  return measure_paired(static_cast<int>(modes_.size()) + 1, run, go_on);
}

void RecordingBench::read_prompt(SequenceCache& kv, const std::vector<int32_t>& prompt, int64_t chunk,
                                 ProbeSink* sink) {
  const int64_t n = static_cast<int64_t>(prompt.size());
  for (int64_t at = 0; at < n; at += chunk) {
    const int64_t count = std::min(chunk, n - at);
    Batch batch;
    batch.append(kv, nullptr, 0, std::span(prompt).subspan(static_cast<size_t>(at), static_cast<size_t>(count)), {}, n,
                 at + count == n ? 1 : 0);
    if (at + count == n) batch.sampling.resize(1);
    forward_.run(batch, sink);
  }
}

PairedCosts RecordingBench::prefill(const std::vector<int32_t>& prompt, int64_t chunk,
                                    const std::function<bool(int64_t, double)>& go_on) {
  KvPool pool(forward_.backend(), forward_.model(), KvPool::blocks_for(static_cast<int64_t>(prompt.size())));
  SequenceCache kv(pool);
  return measure(
      warm_prefills,
      [&](ProbeSink* sink) {
        kv.rewind(0);
        read_prompt(kv, prompt, chunk, sink);
      },
      go_on);
}

PairedCosts RecordingBench::decode(const std::vector<std::vector<int32_t>>& prompts, int64_t chunk,
                                   const std::function<bool(int64_t, double)>& go_on) {
  int64_t n_blocks = 0;
  for (const auto& prompt : prompts) n_blocks += KvPool::blocks_for(static_cast<int64_t>(prompt.size()) + 1);
  KvPool pool(forward_.backend(), forward_.model(), n_blocks);
  std::vector<SequenceCache> sequences;
  for (const auto& prompt : prompts) {
    sequences.emplace_back(pool);
    read_prompt(sequences.back(), prompt, chunk, nullptr);
  }
  return measure(
      warm_runs,
      [&](ProbeSink* sink) {
        Batch batch;
        for (size_t s = 0; s < sequences.size(); ++s) {
          const int64_t length = static_cast<int64_t>(prompts[s].size());
          sequences[s].rewind(length);
          batch.append(sequences[s], nullptr, static_cast<int64_t>(s), std::span(prompts[s]).last(1), {}, length, 1);
        }
        batch.sampling.resize(sequences.size());
        forward_.run(batch, sink);
      },
      go_on);
}

}  // namespace signalbox::tools
