// Models of real shapes with random weights and no files.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "engine/model.h"
#include "engine/weights.h"
#include "tools/bench/random_memory.h"

namespace signalbox::tools {

struct BenchShape {
  std::string name;
  Model model;
  bool mxfp4 = false;        // experts as checkpoints of this family store them: MXFP4, else bf16
  bool interleaved = false;  // rows of gate and up take turns there
};

// A released shape by name. Throws Error listing the names when there is none of that name.
BenchShape bench_shape(std::string_view name);
// config.json -> the same; `name` for messages.
BenchShape bench_shape_of(std::string_view config, std::string name);
// "A, B, C" of all names.
std::string bench_shape_names();
// Those whose parameters number at most `most`.
std::vector<BenchShape> bench_shapes(int64_t most);

// Gives random values to a tensor of the shape; `owners` keeps them. Gate and up of an expert come in this order.
void random_tensor(const BenchShape& shape, const TensorPlace& slot, RandomMemory& memory,
                   std::vector<std::shared_ptr<const void>>& owners);
Weights random_weights(const BenchShape& shape, RandomMemory& memory);

// Bytes of the shape's weights in host memory, and how many of its layers fit into `available` bytes.
int64_t random_weight_bytes(const BenchShape& shape);
int64_t layers_that_fit(const BenchShape& shape, int64_t available);

}  // namespace signalbox::tools
