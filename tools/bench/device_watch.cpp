#include "tools/bench/device_watch.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sstream>

extern char** environ;

namespace signalbox::tools {

namespace {

// The name by which nvidia-smi knows CUDA's device `index`.
std::string device_selector(int index) {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (!visible) return std::to_string(index);
  std::istringstream list(visible);
  std::string entry;
  for (int i = 0; std::getline(list, entry, ','); ++i)
    if (i == index) return entry;
  return std::to_string(index);
}

double number(const std::string& text) {  // "[N/A]" is not one
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  return end == text.c_str() ? NAN : value;
}

}  // namespace

json::Value range_of(std::vector<double> values) {
  values.erase(std::remove_if(values.begin(), values.end(), [](double v) { return std::isnan(v); }), values.end());
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  json::Value range = json::Value::object();
  range.set("least", values.front()).set("median", values[values.size() / 2]).set("most", values.back());
  return range;
}

DeviceWatch::DeviceWatch(const std::string& device) {
  if (!device.starts_with("cuda:")) return;
  const std::string selector = device_selector(std::atoi(device.c_str() + 5));
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return;
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  const char* const arguments[] = {
      "nvidia-smi",
      "--query-gpu=name,driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw,utilization.gpu",
      "--format=csv,noheader,nounits",
      "-i",
      selector.c_str(),
      "-lms",
      "250",
      nullptr};
  // A group of its own: a wrapper of that name ends together with what it has started.
  posix_spawnattr_t group;
  posix_spawnattr_init(&group);
  posix_spawnattr_setflags(&group, POSIX_SPAWN_SETPGROUP);
  pid_t process = 0;
  const int failure =
      posix_spawnp(&process, "nvidia-smi", &files, &group, const_cast<char* const*>(arguments), environ);
  posix_spawnattr_destroy(&group);
  posix_spawn_file_actions_destroy(&files);
  close(ends[1]);
  if (failure != 0) {
    close(ends[0]);
    return;
  }
  process_ = process;
  output_ = ends[0];
  reader_ = std::thread([this] { read(); });
}

DeviceWatch::~DeviceWatch() { stop(); }

void DeviceWatch::read() {
  std::string text;
  char piece[512];
  ssize_t n;
  while ((n = ::read(output_, piece, sizeof piece)) > 0) {
    text.append(piece, static_cast<size_t>(n));
    for (size_t end; (end = text.find('\n')) != std::string::npos; text.erase(0, end + 1)) {
      std::istringstream line(text.substr(0, end));
      std::vector<std::string> fields;
      for (std::string field; std::getline(line, field, ',');) {
        const size_t first = field.find_first_not_of(' ');
        fields.push_back(first == std::string::npos ? "" : field.substr(first));
      }
      if (fields.size() != 7) continue;  // a message, not a sample
      name_ = fields[0];
      driver_ = fields[1];
      samples_.push_back(
          {number(fields[2]), number(fields[3]), number(fields[4]), number(fields[5]), number(fields[6])});
    }
  }
}

void DeviceWatch::stop() {
  if (process_ <= 0) return;
  kill(-process_, SIGTERM);
  reader_.join();  // its end of the pipe has been closed
  int status = 0;
  waitpid(process_, &status, 0);
  close(output_);
  process_ = 0;
}

json::Value DeviceWatch::finish() {
  stop();
  if (samples_.empty()) return {};
  const bool worked = std::any_of(samples_.begin(), samples_.end(), [](const Sample& s) { return s.busy > 0; });
  std::vector<double> sm, memory, celsius, watts;
  for (const Sample& sample : samples_) {
    if (worked && !(sample.busy > 0)) continue;
    sm.push_back(sample.sm_mhz);
    memory.push_back(sample.memory_mhz);
    celsius.push_back(sample.celsius);
    watts.push_back(sample.watts);
  }
  json::Value state = json::Value::object();
  state.set("name", name_)
      .set("driver", driver_)
      .set("sm_mhz", range_of(sm))
      .set("memory_mhz", range_of(memory))
      .set("celsius", range_of(celsius))
      .set("watts", range_of(watts))
      .set("samples", static_cast<int64_t>(sm.size()));
  return state;
}

std::string watch_text(const json::Value& watched) {
  if (watched.is_null()) return "";
  const auto median = [&](const char* key) {
    const json::Value* range = watched.find(key);
    return range && !range->is_null() ? range->find("median")->real() : 0;
  };
  char text[256];
  std::snprintf(text, sizeof text,
                "\n%s, driver %s: SM %.0f MHz, memory %.0f MHz, %.0f C, %.0f W (medians while it worked)\n",
                watched.find("name")->string().c_str(), watched.find("driver")->string().c_str(), median("sm_mhz"),
                median("memory_mhz"), median("celsius"), median("watts"));
  return text;
}

}  // namespace signalbox::tools
