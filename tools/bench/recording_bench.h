// What recording costs: the same steps of one forward with each set of points recorded, and with none, in turns.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "engine/forward.h"
#include "probes/trace.h"
#include "tools/bench/paired.h"

namespace signalbox::tools {

// A trace of these points in this directory.
using MakeTrace = std::function<std::unique_ptr<TraceWriter>(const std::string& points, const std::string& directory)>;

class RecordingBench {
 public:
  // `modes`: the points of each way of recording.
  RecordingBench(Forward& forward, MakeTrace make_trace, std::vector<std::string> modes)
      : forward_(forward), make_trace_(std::move(make_trace)), modes_(std::move(modes)) {}

  // Prefill of a prompt, `chunk` tokens a forward.
  PairedCosts prefill(const std::vector<int32_t>& prompt, int64_t chunk,
                      const std::function<bool(int64_t, double)>& go_on);
  // Decoding: one step of all sequences behind their prompts, which are read first. Each step is taken back, so that
  // all of them do the same.
  PairedCosts decode(const std::vector<std::vector<int32_t>>& prompts, int64_t chunk,
                     const std::function<bool(int64_t, double)>& go_on);

 private:
  // Times work(sink) with each way of recording in turn; on a device n_warm times before, untimed.
  PairedCosts measure(int n_warm, const std::function<void(ProbeSink*)>& work,
                      const std::function<bool(int64_t, double)>& go_on);
  void read_prompt(SequenceCache& kv, const std::vector<int32_t>& prompt, int64_t chunk, ProbeSink* sink);

  Forward& forward_;
  MakeTrace make_trace_;
  std::vector<std::string> modes_;
};

}  // namespace signalbox::tools
