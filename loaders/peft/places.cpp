#include "loaders/peft/places.h"

#include <algorithm>

namespace signalbox::loaders::peft {

using families::Layout;
using families::Source;

std::string module_of(const std::string& parameter) { return parameter.substr(0, parameter.rfind('.')); }

Places find_places(const families::Family& family, const Model& model) {
  Places places;
  Weights shapes;
  for_each_tensor(model, shapes, [&](const TensorPlace& place) {
    TensorPlace tensor = place;
    tensor.matrix = nullptr;  // of `shapes`
    tensor.vector = nullptr;
    const bool vector = place.vector != nullptr;
    for (const Source& source : families::sources(family, place.id)) {
      if (source.row->layout == Layout::plain) {
        if (source.row->parts == 1) places.tensors[source.name] = tensor;
        continue;
      }
      if (source.row->layout == Layout::mxfp4) continue;  // its values have a name of the transposed kind, too
      const int64_t rows = vector ? place.cols : place.rows, cols = vector ? 1 : place.cols, parts = source.row->parts;
      std::vector<Stack>& stacks = places.stacks[module_of(source.name)];
      auto stack =
          std::find_if(stacks.begin(), stacks.end(), [&](const Stack& one) { return one.name == source.name; });
      if (stack == stacks.end()) {
        Stack made;
        made.name = source.name;
        made.n_experts = model.layers[static_cast<size_t>(place.id.layer)].moe()->router.n_experts;
        made.rows = rows * parts;
        made.cols = cols;
        made.transposed = source.row->layout == Layout::transposed;
        made.vectors = vector;
        made.experts.resize(static_cast<size_t>(made.n_experts));
        stack = stacks.insert(stacks.end(), std::move(made));
      }
      const bool interleaved = source.row->interleaved;
      stack->experts[static_cast<size_t>(place.id.expert)].push_back(
          {tensor, interleaved ? source.row->part : source.row->part * rows, interleaved ? parts : 1});
    }
  });
  if (model.tied_embeddings) {
    TensorPlace head;
    head.id.role = Role::lm_head;
    head.rows = model.n_vocab;
    head.cols = model.d_model;
    places.tensors[families::sources(family, head.id).front().name] = head;
  }
  return places;
}

}  // namespace signalbox::loaders::peft
