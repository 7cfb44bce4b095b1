// Experiment specs: any bytes give a spec or one Error.
#include "eval/experiment/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace signalbox;
  using namespace signalbox::tools;
  using namespace signalbox::eval;
  try {
    const json::Value value = json::parse(std::string_view(reinterpret_cast<const char*>(data), size), "spec.json");
    const ExperimentSpec spec = parse_experiment(json::Ref(value, "spec.json"), "/nonexistent");
    json::dump(resolved_json(spec));
  } catch (const Error&) {
  }
  return 0;
}
