#include "tools/serve/metrics.h"

#include <array>

#include "base/text.h"

namespace signalbox::tools {

namespace {

constexpr std::array<double, 14> bucket_ends = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                0.25,  0.5,    1,     2.5,  5,     10,   60};

void append_family(std::string& out, const std::string& name, const char* type,
                   const std::map<std::string, int64_t>& series) {
  out += "# TYPE signalbox_" + name + " " + type + "\n";
  for (const auto& [labels, value] : series)
    out += "signalbox_" + name + (labels.empty() ? "" : "{" + labels + "}") + " " + std::to_string(value) + "\n";
}

}  // namespace

void Metrics::add(const std::string& name, int64_t by, const std::string& labels) {
  std::lock_guard lock(mutex_);
  counters_[name][labels] += by;
}

void Metrics::set(const std::string& name, int64_t value, const std::string& labels) {
  std::lock_guard lock(mutex_);
  gauges_[name][labels] = value;
}

void Metrics::observe(const std::string& name, double seconds) {
  std::lock_guard lock(mutex_);
  Histogram& histogram = histograms_[name];
  histogram.counts.resize(bucket_ends.size());
  for (size_t i = 0; i < bucket_ends.size(); ++i) histogram.counts[i] += seconds <= bucket_ends[i];
  histogram.sum += seconds;
  ++histogram.n;
}

int64_t Metrics::value(const std::string& name, const std::string& labels) const {
  std::lock_guard lock(mutex_);
  for (const auto* families : {&counters_, &gauges_})
    if (const auto family = families->find(name); family != families->end())
      if (const auto one = family->second.find(labels); one != family->second.end()) return one->second;
  return 0;
}

std::string Metrics::text() const {
  std::lock_guard lock(mutex_);
  std::string out;
  for (const auto& [name, series] : counters_) append_family(out, name, "counter", series);
  for (const auto& [name, series] : gauges_) append_family(out, name, "gauge", series);
  for (const auto& [name, histogram] : histograms_) {
    out += "# TYPE signalbox_" + name + " histogram\n";
    for (size_t i = 0; i < bucket_ends.size(); ++i)
      out += "signalbox_" + name + "_bucket{le=\"" + short_number(bucket_ends[i]) + "\"} " +
             std::to_string(histogram.counts[i]) + "\n";
    out += "signalbox_" + name + "_bucket{le=\"+Inf\"} " + std::to_string(histogram.n) + "\n";
    out += "signalbox_" + name + "_sum " + std::to_string(histogram.sum) + "\n";
    out += "signalbox_" + name + "_count " + std::to_string(histogram.n) + "\n";
  }
  return out;
}

}  // namespace signalbox::tools
