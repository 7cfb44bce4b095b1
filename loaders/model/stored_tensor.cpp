#include "loaders/model/stored_tensor.h"

namespace signalbox::loaders {

using families::Layout;
using families::Source;

std::vector<Source> places_of(const families::Family& family, const Model& model, const TensorId& id) {
  std::vector<Source> places = families::sources(family, id);
  if (id.role == Role::embed && model.tied_embeddings)
    places.push_back(families::sources(family, {Role::lm_head}).front());
  return places;
}

StoredTensor find_stored(const std::vector<Source>& places, const Checkpoint& checkpoint) {
  for (const Source& source : places) {
    const bool blocks = source.row->layout == Layout::mxfp4;
    const Checkpoint::Tensor tensor = checkpoint.find(blocks ? source.name + "_blocks" : source.name);
    if (tensor) return {source, tensor, blocks ? checkpoint.find(source.name + "_scales") : Checkpoint::Tensor()};
  }
  return {};
}

StoredTensor stored_tensor(const families::Family& family, const Model& model, const Checkpoint& checkpoint,
                           const TensorId& id) {
  const std::vector<Source> places = places_of(family, model, id);
  if (StoredTensor found = find_stored(places, checkpoint)) return found;
  throw Error(checkpoint.index(),
              "expected the tensor \"" + places.front().name + "\" that was loaded, found none of that name");
}

}  // namespace signalbox::loaders
