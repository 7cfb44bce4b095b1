// Any bytes as an edit list: parsed or refused with an Error, never a crash. Lists that are accepted are bound, too.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/csv.h"
#include "base/error.h"
#include "base/json.h"
#include "probes/edits.h"

using namespace signalbox;
using namespace signalbox::tools;

namespace {

ModelShape small_shape() {
  ModelShape shape;
  shape.d_model = 4;
  shape.n_vocab = 11;
  shape.layers.resize(6);
  shape.layers[0].d_ff = 10;
  for (int32_t l = 1; l < 6; ++l) shape.layers[l] = {true, 8, 2, 3, l != 5};
  return shape;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const ModelShape shape = small_shape();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const json::Value value = json::parse(text, "fuzz");
    const auto plan = EditPlan::parse(json::Ref(value, "fuzz"), "/nonexistent", shape, 1);
    const auto bound = plan->bind({"r", 0, 5, {{"doc", 1, 3}}});
    std::vector<uint8_t> active(static_cast<size_t>(plan->n_edits()));
    for (int64_t p = 0; p < 8; ++p) bound->active(p, active.data());
    for (int32_t l = 0; l < shape.n_layers(); ++l) {
      const RouterProgram program = bound->router(l);
      for (int32_t i = 0; i < program.n_steps; ++i)
        for (int32_t e = 0; e < program.steps[i].n_listed; ++e)
          if (program.steps[i].experts[e] < 0 || program.steps[i].experts[e] >= 8) __builtin_trap();
    }
  } catch (const Error&) {
  }
  try {
    PointSet::parse(text.substr(0, 200), shape);
  } catch (const Error&) {
  }
  try {
    const CsvTable table = CsvTable::parse(text, "fuzz");
    for (size_t r = 0; r < table.n_rows(); ++r) table.number(r, table.column("rd"));
  } catch (const Error&) {
  }
  return 0;
}
