// Counters and histograms, and their text for Prometheus. From any thread.
#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::tools {

class Metrics {
 public:
  // `labels`: as they are printed, "endpoint=\"health\",status=\"200\""; never text of users. Names without
  // "signalbox_"; those of counters end with _total.
  void add(const std::string& name, int64_t by = 1, const std::string& labels = "");
  void set(const std::string& name, int64_t value, const std::string& labels = "");  // a gauge
  void observe(const std::string& name, double seconds);                             // a histogram
  int64_t value(const std::string& name, const std::string& labels = "") const;

  std::string text() const;  // version 0.0.4

 private:
  struct Histogram {
    std::vector<int64_t> counts;
    double sum = 0;
    int64_t n = 0;
  };
  mutable std::mutex mutex_;
  std::map<std::string, std::map<std::string, int64_t>> counters_, gauges_;
  std::map<std::string, Histogram> histograms_;
};

}  // namespace signalbox::tools
