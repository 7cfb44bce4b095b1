// gpu_kit: what a GPU does, apart from any model: its instructions (compared with what the kernels and the shim assume)
// and its small times. One JSON line a result, as soon as it is there; tools/gpu-check runs each case in a process of
// its own. Not a part of the product: no model needs these kernels, and kernels/cuda/budget.csv does not list them.
#include <cstdio>
#include <cstring>
#include <exception>

#include "kernels/cuda/kit/hopper_kit.h"
#include "kernels/cuda/kit/micro.h"

namespace signalbox::kernels::cuda {

namespace {

constexpr const char* usage =
    "gpu_kit instructions            mma, ldmatrix, cp.async, conversions, exponentials, warp operations (any GPU)\n"
    "gpu_kit hopper CASE             sm_90a: wgmma, mbarrier, bulk copies, ... : one case\n"
    "gpu_kit micro CASE              bandwidth, latencies, launches, peaks: one case\n"
    "gpu_kit list                    the cases, one line of JSON\n"
    "  --device N                    which GPU (0)\n";

void print(const std::string& line) {
  std::printf("%s\n", line.c_str());
  if (std::fflush(stdout) != 0) throw Error("standard output", "cannot write");
}

template <class Cases>
std::string names_of(const Cases& cases, const char* quote) {
  std::string text;
  for (const auto& one : cases) text += (text.empty() ? "" : ", ") + (quote + std::string(one.name)) + quote;
  return text;
}

template <class Cases>
const typename Cases::value_type& find(const Cases& cases, const std::string& name) {
  for (const auto& one : cases)
    if (name == one.name) return one;
  if (cases.empty()) throw Error("gpu_kit", "expected a build with code for sm_90a, found one without");
  throw Error("gpu_kit", "expected one of " + names_of(cases, "") + ", found " + name);
}

#if defined(SIGNALBOX_KIT_HOPPER)
std::vector<KitCase> hopper_cases() {
  std::vector<KitCase> cases = memory_cases();
  for (KitCase& one : product_cases()) cases.push_back(std::move(one));
  return cases;
}
std::vector<MicroCase> all_micro_cases() { return micro_cases(); }
#else  // built for devices that lack the instructions
std::vector<KitCase> hopper_cases() { return {}; }
std::vector<MicroCase> all_micro_cases() { return {}; }
#endif

std::string head(const DeviceInfo& info) {
  return "{\"schema\":\"signalbox instructions 1\",\"device\":\"" + info.name + "\",\"capability\":\"" +
         std::to_string(info.major) + "." + std::to_string(info.minor) +
         "\",\"driver\":" + std::to_string(info.driver_version) + ",\"runtime\":" + std::to_string(CUDART_VERSION) +
         ",\"processors\":" + std::to_string(info.n_processors) + "}";
}

int run(int argc, char** argv) {
  std::vector<std::string> words;
  int device = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--device") {
      if (i + 1 == argc) throw Error("--device", "expected a number, found nothing");
      char* end = nullptr;
      device = static_cast<int>(std::strtol(argv[++i], &end, 10));
      if (end == argv[i] || *end != 0) throw Error("--device", std::string("expected a number, found ") + argv[i]);
    } else {
      words.push_back(word);
    }
  }
  const std::string what = words.empty() ? "" : words[0];
  if (what == "list" && words.size() == 1) {
    print("{\"hopper\":[" + names_of(hopper_cases(), "\"") + "],\"micro\":[" + names_of(all_micro_cases(), "\"") +
          "]}");
    return 0;
  }
  const bool one = what == "hopper" || what == "micro";
  if (!(what == "instructions" && words.size() == 1) && !(one && words.size() == 2)) {
    std::fprintf(stderr, "%s", usage);
    return 2;
  }
  if (what == "hopper") find(hopper_cases(), words[1]);  // before a device is opened
  if (what == "micro") find(all_micro_cases(), words[1]);
  if (const std::string why = unavailable(); !why.empty()) throw Error("gpu_kit", why);
  const DeviceInfo info = open_device(device);
  if (one && (info.major != 9 || info.minor != 0))
    throw Error("gpu_kit " + what, "expected a device of compute capability 9.0, found " + std::to_string(info.major) +
                                       "." + std::to_string(info.minor) + " (" + info.name + ")");
  if (what == "micro") {
    find(all_micro_cases(), words[1]).run(info, print);
    return 0;
  }
  print(head(info));
  const auto report = [](const InstructionResult& result) { print(json_line(result)); };
  if (one)
    find(hopper_cases(), words[1]).run(report);
  else
    run_instructions(report);
  return 0;
}

}  // namespace

}  // namespace signalbox::kernels::cuda

int main(int argc, char** argv) {
  try {
    return signalbox::kernels::cuda::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
