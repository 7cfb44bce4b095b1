#include "probes/edit_memory.h"

#include <cmath>

#include "base/error.h"
#include "base/safetensors.h"

namespace signalbox::probes {

namespace {

template <class Map>
std::string listed_names(const Map& map) {
  std::string names;
  for (const auto& [name, value] : map) names += (names.empty() ? "" : ", ") + name;
  return names.empty() ? "none" : names;
}

}  // namespace

void EditMemory::require_new(const std::string& name) const {
  if (recordings_.contains(name) || vectors_.contains(name))
    throw Error("memory:" + name, "expected a name of its own, found one that is taken");
}

void EditMemory::add(std::shared_ptr<const ActivationStore> store) {
  require_new(store->name());
  if (!store->finished()) throw Error(store->where(), "expected a finished store, found one that still records");
  const std::string name = store->name();
  recordings_.emplace(name, std::move(store));
}

void EditMemory::add(const std::string& name, Vector vector) {
  require_new(name);
  int64_t n = 1;
  for (const int64_t size : vector.shape) n *= size;
  if (vector.shape.empty() || n != static_cast<int64_t>(vector.values.size()))
    throw Error("memory:" + name, "expected as many values as the shape " + safetensors::shape_text(vector.shape) +
                                      " tells, found " + std::to_string(vector.values.size()));
  for (size_t i = 0; i < vector.values.size(); ++i)
    if (!std::isfinite(vector.values[i]))
      throw Error("memory:" + name, "expected finite values, found " + std::to_string(vector.values[i]) +
                                        " at element " + std::to_string(i));
  vectors_.emplace(name, std::move(vector));
}

std::shared_ptr<const Recording> EditMemory::recording(std::string_view name) const {
  const auto found = recordings_.find(name);
  return found == recordings_.end() ? nullptr : found->second;
}

const EditMemory::Vector* EditMemory::vector(std::string_view name) const {
  const auto found = vectors_.find(name);
  return found == vectors_.end() ? nullptr : &found->second;
}

std::string EditMemory::recording_names() const { return listed_names(recordings_); }
std::string EditMemory::vector_names() const { return listed_names(vectors_); }

}  // namespace signalbox::probes
