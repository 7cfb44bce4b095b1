// Clocks, temperature and power of a GPU while something is measured on it, from nvidia-smi.
#pragma once
#include <string>
#include <thread>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::tools {

class DeviceWatch {
 public:
  // `device`: Backend::name(). Anything but a GPU, or no nvidia-smi: nothing is watched.
  explicit DeviceWatch(const std::string& device);
  ~DeviceWatch();
  DeviceWatch(const DeviceWatch&) = delete;
  DeviceWatch& operator=(const DeviceWatch&) = delete;

  // Ends the watch. {"name", "driver", "sm_mhz": {"least", "median", "most"}, "memory_mhz", "celsius", "watts",
  // "samples"}, or null when nothing could be read. Only samples in which the device worked count for the clocks.
  json::Value finish();

 private:
  struct Sample {
    double sm_mhz, memory_mhz, celsius, watts, busy;
  };
  void read();
  void stop();
  int process_ = 0, output_ = -1;
  std::thread reader_;
  std::string name_, driver_;
  std::vector<Sample> samples_;
};

// {"least", "median", "most"} of some numbers, or null of none; NaN is left out.
json::Value range_of(std::vector<double> values);

// A line about what DeviceWatch::finish found; empty for null.
std::string watch_text(const json::Value& watched);

}  // namespace signalbox::tools
