// Small times of a device, each measured alone: what the design of kernels rests on. Written for sm_90a; no GPU has run
// any of it. Each figure is a line of JSON with "micro" (its name) and "unit" at least, told as soon as it is there.
#pragma once
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/kit/hopper_kit.h"
#include "kernels/cuda/runtime.h"

namespace signalbox::kernels::cuda {

using MicroPrint = std::function<void(const std::string&)>;
struct MicroCase {
  const char* name;
  std::function<void(const DeviceInfo&, const MicroPrint&)> run;
};
// All of them, those that others rest on first.
std::vector<MicroCase> micro_cases();
std::vector<MicroCase> bandwidth_cases();
std::vector<MicroCase> latency_cases();
std::vector<MicroCase> launch_cases();
std::vector<MicroCase> peak_cases();

// A line of JSON, put together field by field.
class MicroLine {
 public:
  explicit MicroLine(const char* name) : text_(std::string("{\"micro\":\"") + name + "\"") {}
  MicroLine& set(const char* key, const char* value) {
    std::string quoted(1, '"');
    quoted.append(value).append(1, '"');
    return raw(key, quoted);
  }
  MicroLine& set(const char* key, int64_t value) { return raw(key, std::to_string(value)); }
  MicroLine& set(const char* key, int value) { return raw(key, std::to_string(value)); }
  MicroLine& set(const char* key, double value) {
    char text[40];
    std::snprintf(text, sizeof text, "%.6g", value);
    return raw(key, text);
  }
  std::string text() const { return text_ + "}"; }

 private:
  MicroLine& raw(const char* key, const std::string& value) {
    text_.append(",\"").append(key).append("\":").append(value);
    return *this;
  }
  std::string text_;
};

// Seconds that `enqueue` takes on the stream: the median of `rounds` after one that does not count, and how far apart
// they are ((slowest - fastest) / median).
struct MicroTime {
  double seconds = 0, spread = 0;
};
template <class F>
MicroTime micro_time(Stream stream, const F& enqueue, int rounds = 7) {
  Event from(true), to(true);
  std::vector<double> times;
  for (int r = 0; r <= rounds; ++r) {
    from.record(stream);
    enqueue();
    to.record(stream);
    to.synchronize();
    if (r > 0) times.push_back(Event::seconds(from, to));
  }
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  return {median, (times.back() - times.front()) / median};
}

// What `enqueue` enqueues, kept.
template <class F>
std::unique_ptr<Graph> captured(Stream stream, const F& enqueue) {
  Graph::begin(stream);
  enqueue();
  std::unique_ptr<Graph> graph = Graph::end(stream);
  if (!graph) throw Error("CUDA graph", "expected memory for it, found none");
  return graph;
}

}  // namespace signalbox::kernels::cuda
