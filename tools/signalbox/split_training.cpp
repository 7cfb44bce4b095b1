#include "tools/signalbox/split_training.h"

#include "base/error.h"
#include "tools/signalbox/reading_flags.h"

namespace signalbox::tools {

train::SplitFiles read_split_files(const std::string& data, const std::string& stop, const std::string& eval) {
  const auto read = [](const std::string& file) {
    std::vector<Record> records = read_records(file);
    if (records.empty()) throw Error(file, "expected at least one record, found none");
    return records;
  };
  train::SplitFiles files;
  files.data = read(data);
  if (!stop.empty()) files.stop = read(stop);
  if (!eval.empty()) files.report = read(eval);
  return files;
}

loaders::OpenOptions cpu_open_options(const CommonOptions& options) {
  loaders::OpenOptions open;
  open.device.kind = DeviceChoice::Kind::cpu;
  open.threads = options.threads;
  open.isa = options.isa;
  open.numerics = options.numerics;
  return open;
}

}  // namespace signalbox::tools
