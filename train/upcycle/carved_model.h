// Models made of a dense one and what was carved of its blocks, in memory.
#pragma once
#include <filesystem>
#include <vector>

#include "base/dtype.h"
#include "engine/session.h"
#include "loaders/model/new_checkpoint.h"
#include "train/namespaces.h"
#include "train/upcycle/carve.h"

namespace signalbox::train {

struct BuiltModel {
  Model model;
  Weights weights;  // views of the dense model's and of what is new; the dense model outlives it
};

// `model`: as families::carved_config describes it, with any number of active experts. The shared expert's gate is 0,
// so that half of its output counts, and its down is twice as large; the experts' weights sum to 1 over all of them,
// and each down is `routed` times as large. With a router of zeros and all experts active it is the dense model up to
// rounding. New values are rounded to `dtype`. refit: the refitted down, else the dense one's columns.
BuiltModel routed_model(const Session& dense, Model model, const std::vector<CarvedLayer>& layers,
                        const CarveLayout& layout, DType dtype, bool refit);

// A dense model of the neurons that are most often in use, as many as are active in the other.
BuiltModel static_model(const Session& dense, const std::vector<CarvedLayer>& layers, const CarveLayout& layout,
                        DType dtype, bool refit);

// The values of its tensors, for write_checkpoint. The model outlives it.
TensorValues values_of(BuiltModel& built);

// What was carved of one layer, in a file to go on from. Throws Error.
void save_layer(const CarvedLayer& layer, const std::filesystem::path& file);
CarvedLayer load_layer(const std::filesystem::path& file);

}  // namespace signalbox::train
